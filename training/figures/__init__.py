"""The pictures of docs/losses.md and the numbers it quotes: psi, features in the plane, angles, margins."""
