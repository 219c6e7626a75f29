"""The page on the command line, from the Typer app."""

from typing import Any

import typer

from _generate.rst import escaped, heading, literal, table
from ea_pointcloud.cli import app

PROGRAM = "ea-pointcloud"
INTRODUCTION = """\
Results go to stdout, progress and messages to stderr. The exit status is 0 when all went well, and
1 when a file could not be read or an argument is wrong. ``python -m ea_pointcloud`` is the same
program.
"""


def commands(group: Any = None, path: str = PROGRAM) -> dict[str, Any]:
    """Full name -> command, those of groups after their group."""
    group = group or typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        found[f"{path} {name}"] = command
        if hasattr(command, "commands"):
            found |= commands(command, f"{path} {name}")
    return found


def page() -> str:
    """All commands: usage, arguments, options, examples."""
    parts = [heading("Command line"), INTRODUCTION]
    for path, command in commands().items():
        context = command.context_class(command, info_name=path)
        parts += [heading(path, "-"), "\n\n".join(map(escaped, paragraphs(command.help))) + "\n"]
        if hasattr(command, "commands"):
            continue
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        usage = [argument_usage(each) for each in arguments]
        parts += [".. code-block:: text\n", f"   {' '.join([path, *usage, '[OPTIONS]'])}\n"]
        for kind in ("argument", "option"):
            records = [
                each.get_help_record(context)
                for each in command.params
                if each.param_type_name == kind
            ]
            rows = [(literal(name), escaped(text)) for name, text in filter(None, records)]
            if rows:
                parts.append(table((kind, "meaning"), rows, "35 65"))
        examples = [line for line in paragraphs(command.epilog) if line.startswith(PROGRAM)]
        if examples:
            lines = "\n".join(f"   {line}" for line in examples)
            parts.append(f"Examples:\n\n.. code-block:: bash\n\n{lines}\n")
    return "\n".join(parts)


def argument_usage(argument: Any) -> str:
    """An argument as the usage line shows it."""
    name = argument.metavar or argument.name.upper()
    many = "..." if argument.nargs == -1 and not name.endswith("...") else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def paragraphs(text: str | None) -> list[str]:
    """The paragraphs of a help text, each on one line."""
    return [" ".join(each.split()) for each in (text or "").split("\n\n") if each.strip()]
