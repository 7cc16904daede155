"""A hook of MkDocs: what is written for a repository's pages, read as a site.

Links that lead out of docs/, to code for one, become names of files: on the site there is nothing to lead to. One that
leads to no file fails the build. In tables `a\\|b` is code with a bar in it; here no backslash is wanted.
"""

import logging
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.links")
_CODE = re.compile(r"`[^`\n]+`")
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The text of a page, before it becomes HTML."""
    folder = Path(config.docs_dir)

    def named(link: re.Match[str]) -> str:
        path = (folder / Path(page.file.src_uri).parent / link[2]).resolve()
        if not path.exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, link[2])
        name = path.relative_to(folder.resolve().parent).as_posix()
        return f"`{name}`" if path.name.startswith(link[1].strip("`")) else f"{link[1]} (`{name}`)"

    lines = _OUTSIDE.sub(named, markdown).split("\n")
    return "\n".join(_CODE.sub(_bare_bars, line) if line.startswith("|") else line for line in lines)


def _bare_bars(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")
