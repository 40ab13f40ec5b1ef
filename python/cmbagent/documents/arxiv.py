"""Papers of arXiv that a text links to."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbagent.documents.files import write_json
from cmbagent.errors import DownloadError
from cmbagent.utils import resolve_work_dir
from cmbagent.workflows._helper import perform

if TYPE_CHECKING:
    from cmbagent._core import RunHandle

# Numbers of now (2401.01234v2) and of before 2007 (astro-ph/0601001, math.GT/0309136).
_LINK = re.compile(
    r"https?://(?:www\.|export\.)?arxiv\.org/(?:pdf|abs|html|src|ps)/"
    r"(?P<id>(?:[0-9]+\.[0-9]+|[a-z-]+(?:\.[A-Z]{2})?/[0-9]{7})(?:v[0-9]+)?)(?:\.pdf)?"
)
_HOME = "https://arxiv.org"


def arxiv_filter(
    input_text: str,
    work_dir: str | os.PathLike[str] | None = None,
    callbacks: Any = None,
    *,
    verbose: bool | None = None,
) -> dict[str, Any]:
    """Download the papers of arXiv that a text links to.

    A paper that is there already is not downloaded again. Where one cannot be had, the others still are. A
    mirror can be named in `ARXIV_BASE_URL`.

    Args:
        input_text: the text.
        work_dir: papers go into its folder `docs`; `None` means `cmbagent_output` in the current directory.
        callbacks: see `cmbagent.callbacks`.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.

    Returns:
        A dict with `urls_found`, `arxiv_ids`, `downloads_attempted`, `downloads_successful`,
        `downloads_failed`, `downloads_skipped` (there already), `downloaded_files` (paths),
        `failed_downloads` (dicts of `url` and `error`) and `output_directory`. When there were links, the
        same is in `docs/arxiv_download_metadata.json`.
    """
    place = Path(resolve_work_dir(work_dir))

    async def work(run: RunHandle) -> dict[str, Any]:
        return await download(run, input_text, place)

    return perform(
        "arxiv_filter", "Papers of arXiv", work, "Download papers", place,
        api_keys={}, callbacks=callbacks, verbose=verbose,
    )  # fmt: skip


def base() -> str:
    """Return arXiv's address, or that of the mirror which `ARXIV_BASE_URL` names."""
    return (os.environ.get("ARXIV_BASE_URL") or _HOME).rstrip("/")


def links(text: str) -> dict[str, str]:
    """Return the links to papers in a text: address → the paper's number, in their order."""
    return {found.group(0): found.group("id") for found in _LINK.finditer(text or "")}


async def download(run: RunHandle, text: str, work_dir: Path) -> dict[str, Any]:
    """Do what `arxiv_filter` does, within a run."""
    docs = work_dir / "docs"
    urls = links(text)
    wanted = {number: url for url, number in reversed(urls.items())}
    got: list[str] = []
    there: list[str] = []
    failed: list[dict[str, str]] = []
    for number in dict.fromkeys(urls.values()):
        target = docs / f"{number.replace('/', '_')}.pdf"
        if target.exists():
            there.append(number)
            continue
        docs.mkdir(parents=True, exist_ok=True)
        try:
            fetched = await run.download(f"{base()}/pdf/{number}", target)
            if not _is_pdf(target):
                target.unlink()
                raise DownloadError(
                    f"{fetched['url']} is no PDF but {fetched['content_type'] or 'something else'}; "
                    "check the link in a browser"
                )
        except DownloadError as error:
            failed.append({"url": wanted[number], "error": str(error)})
        else:
            got.append(number)
    result = {
        "urls_found": list(urls),
        "arxiv_ids": [number for number in dict.fromkeys(urls.values()) if number in {*got, *there}],
        "downloads_attempted": len(wanted),
        "downloads_successful": len(got),
        "downloads_failed": len(failed),
        "downloads_skipped": len(there),
        "downloaded_files": [str(docs / f"{number.replace('/', '_')}.pdf") for number in got],
        "failed_downloads": failed,
        "output_directory": str(docs),
    }
    if urls:
        now = time.time()
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        stamped = {**result, "download_timestamp": now, "download_date": date}
        write_json(docs / "arxiv_download_metadata.json", stamped)
    return result


def _is_pdf(path: Path) -> bool:
    with path.open("rb") as file:
        return b"%PDF-" in file.read(1024)
