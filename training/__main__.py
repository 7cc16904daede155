"""The command line of training: facesphere-train COMMAND."""

import importlib

import click

from models.commandline import OneLineErrors

# Imported when named: what needs torch takes seconds to load.
_COMMANDS = ("align", "calibrate", "evaluate", "export", "figures", "retrain", "train")


class _Commands(OneLineErrors):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command out of its module."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"training.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Train, evaluate and calibrate face models, through the code that the service runs."""


if __name__ == "__main__":
    main()
