"""Prints docs/cli.md from the commands' own help; a test holds the two equal."""

from __future__ import annotations

from collections.abc import Iterator

import click

from orchestrator.cli import main

HEAD = """# Commands

Made by `make docs` from the commands' own help.

Exit codes: 0 done, 1 some runs failed, 2 bad input or environment, 130 interrupted. Every shared
option is also an environment variable: `ORCH_STORE`, `ORCH_DATA`, `ORCH_RUNS`, `ORCH_CACHE`,
`ORCH_WEIGHTS`, `ORCH_PLUGINS`.
"""


def commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with what is typed to call it."""
    yield " ".join(words), command
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            yield from commands(child, (*words, name))


def render() -> str:
    """The whole reference as Markdown."""
    parts = [HEAD]
    for name, command in commands(main, ("orch",)):
        context = click.Context(
            command,
            info_name=name,
            terminal_width=100,
            max_content_width=100,
            **main.context_settings,
        )
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(render(), end="")
