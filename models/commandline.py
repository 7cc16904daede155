"""What both command lines share: every command ends in one clear line, whatever goes wrong."""

import logging
import warnings
from typing import Any

import click

from models.errors import FaceError


class Failure(click.ClickException):
    """One line on stderr and exit status 2."""

    exit_code = 2


class OneLineErrors(click.Group):
    """A group of commands whose errors become one line; with debug logging the traceback is shown."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        # Pillow warns of oddities in a file's metadata, thousands of lines for a crafted one; we judge by the pixels.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            return super().invoke(ctx)
        except FaceError as error:
            raise Failure(error.message) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if logging.getLogger("facesphere").isEnabledFor(logging.DEBUG):
                raise
            raise Failure(f"unexpected {type(error).__name__}: {error}") from error
