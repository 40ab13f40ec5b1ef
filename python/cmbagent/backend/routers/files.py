"""The files of a run: listed and handed out, none outside its work directory."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from cmbagent.backend.hub import Hub, TheHub, iso
from cmbagent.backend.models.fields import FileInPath, RunInPath
from cmbagent.backend.models.run_schemas import FileEntry, FileListResponse
from cmbagent.backend.routers.route import Route
from cmbagent.store import RunInfo

router = APIRouter(route_class=Route)

MOST_FILES = 10_000

# What browsers show without running anything in it.
_SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", "application/json")


@router.get("/runs/{run_id}/files", summary="List the files of a run")
def list_files(run_id: RunInPath, hub: TheHub) -> FileListResponse:
    """List the files in a run's work directory, by path."""
    info = hub.run(run_id)
    base = _base(hub, info)
    found: list[FileEntry] = []
    for directory, names, files in os.walk(base):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file():
                continue
            if len(found) == MOST_FILES:
                return FileListResponse(work_dir=info.work_dir, files=found, truncated=True)
            stat = path.stat()
            found.append(
                FileEntry(
                    path=os.fsencode(path.relative_to(base)).decode("utf-8", "replace"),
                    size=stat.st_size,
                    modified_at=iso(stat.st_mtime),
                    media_type=_media_type(path),
                )
            )
    return FileListResponse(work_dir=info.work_dir, files=found, truncated=False)


@router.get(
    "/runs/{run_id}/files/{path:path}",
    summary="Get a file of a run",
    response_class=FileResponse,
    responses={
        200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The part that the header Range names"},
        416: {"description": "The file has no such part"},
    },
)
def get_file(run_id: RunInPath, path: FileInPath, hub: TheHub) -> FileResponse:
    """Hand out a file; the header `Range` names a part of it. Images are shown, programs are not run."""
    base = _base(hub, hub.run(run_id))
    missing = HTTPException(404, f"Run '{run_id}' has no file '{path}'")
    if "\0" in path or not path:
        raise missing
    real = Path(os.path.realpath(base / path))
    if base not in real.parents or not real.is_file():
        raise missing
    kind = _media_type(real)
    shown = kind in _SHOWN or (kind.startswith("text/") and kind != "text/html")
    return FileResponse(
        real,
        media_type=kind,
        filename=real.name,
        content_disposition_type="inline" if shown else "attachment",
        headers={"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "no-cache"},
    )


def _base(hub: Hub, info: RunInfo) -> Path:
    base = Path(os.path.realpath(info.work_dir))
    if hub.settings.base not in base.parents:
        raise HTTPException(
            403,
            f"the work directory of run '{info.id}' lies outside this server's root, so its files stay there",
        )
    return base


def _media_type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"
