"""What mkdocs does here beyond Markdown: the notebooks become pages, and links to files outside docs/ work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[1]
NOTEBOOKS: Final = ("flops_analysis", "flops_analysis.zh-CN")
_OUTSIDE: Final = re.compile(r"\]\((?:\.\./)+((?:examples|notebooks|scripts|src|tests|benchmarks)/[^)#]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook, and a copy of each file of the repository that a page links to."""
    for name in NOTEBOOKS:
        notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
        files.append(File.generated(config, f"{name}.md", content=to_markdown(notebook, f"{name}.ipynb")))
        files.append(_copy(config, f"notebooks/{name}.ipynb"))
    texts = [page.content_string for page in files.documentation_pages()]
    for path in sorted({path for text in texts for path in _OUTSIDE.findall(text)}):
        if (ROOT / path).is_file() and f"repository/{path}" not in files.src_uris:
            files.append(_copy(config, path))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ at the copies; one to a file that is not there stays, and fails the build."""
    up = "../" * page.file.src_uri.count("/")
    return _OUTSIDE.sub(lambda match: f"]({up}repository/{match.group(1)})", markdown)


def to_markdown(notebook: dict[str, Any], file_name: str) -> str:
    """A notebook as one page: its text, its code, and what was printed."""
    pieces = [f"[{file_name}](../notebooks/{file_name})"]
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            pieces.append(text)
            continue
        pieces.append(f"```python\n{text}\n```")
        printed = "".join("".join(output.get("text", "")) for output in cell["outputs"]).rstrip()
        if printed:
            pieces.append(f"```text\n{printed}\n```")
    return "\n\n".join(pieces) + "\n"


def _copy(config: Any, path: str) -> File:
    return File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path))
