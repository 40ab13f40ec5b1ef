"""Agents that read a library's documentation, against a site on this machine."""

import http.server
import threading

import pytest

from cmbagent import one_shot, planning_and_control_context_carryover
from cmbagent.testing import code
from scripted import models, run

PAGE = b"# CAMB\n\n## get_results(params)\n\nRuns CAMB; spectra in muK^2.\n"


@pytest.fixture
def site(monkeypatch):
    """A documentation site that knows version 1.6.0 and the latest; yields the paths that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            known = self.path in ("/1.6.0/camb.md", "/latest/camb.md")
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(PAGE if known else b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{{version}}/camb.md"
    monkeypatch.setenv("CMBAGENT_CAMB_DOCS", address)
    yield asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def camb(monkeypatch, tmp_path):
    """Installs a package named camb, version 1.6.0."""
    place = tmp_path / "site"
    (place / "camb").mkdir(parents=True)
    (place / "camb-1.6.0.dist-info").mkdir()
    (place / "camb" / "__init__.py").write_text(
        '"""A CAMB of this test."""\nfrom .results import get_results\n'
    )
    (place / "camb" / "results.py").write_text(
        'def get_results(params, lmax=2500):\n    """Run it; spectra in muK^2."""\n\n\n'
        'class CAMBdata:\n    def power(self, spec="total"):\n        """Lensed l(l+1)/2pi."""\n'
    )
    (place / "camb" / "broken.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(place))


def answers(**changes):
    return {
        "camb_context": "**Docstrings:** get_results(params)",
        "engineer": code("print('x = 1 K')"),
        **changes,
    }


def test_one_shot_reads_then_computes(site, camb, tmp_path):
    server = models([], **answers())
    result = run(server, one_shot, "Lensed spectra", agent="camb_context", work_dir=tmp_path / "out",
                 camb_context_model="gpt-4o")  # fmt: skip
    server.assert_calls(["camb_context", "engineer"])
    assert site == ["/1.6.0/camb.md"]
    assert "Runs CAMB; spectra in muK^2." in server.prompts("camb_context")[0]
    assert "version 1.6.0 is installed here" in server.prompts("camb_context")[0]
    assert "**Docstrings:** get_results(params)" in server.prompts("engineer")[0]
    assert server.calls[0].model == "gpt-4o"
    assert result["final_context"]["camb_context"] == "**Docstrings:** get_results(params)"

    again = models([], **answers())
    run(again, one_shot, "Lensed spectra", agent="camb_context", work_dir=tmp_path / "again")
    assert site == ["/1.6.0/camb.md"], "the second run reads what was kept"
    assert "Runs CAMB" in again.prompts("camb_context")[0]


def test_in_a_plan(site, tmp_path):
    server = models([("camb_context", "read"), ("engineer", "compute")], **answers())
    run(server, planning_and_control_context_carryover, "Lensed spectra", work_dir=tmp_path / "out")
    assert site == ["/latest/camb.md"], "nothing is installed that a version could be matched to"
    server.assert_calls(["planner", "plan_reviewer", "planner", "camb_context", "engineer"])
    assert "**Docstrings:** get_results(params)" in server.prompts("engineer")[0]


def test_offline_the_installed_docstrings_are_read(camb, monkeypatch, tmp_path):
    monkeypatch.setenv("CMBAGENT_CAMB_DOCS", "http://127.0.0.1:9/{version}/camb.md")
    server = models([], **answers())
    run(server, one_shot, "Lensed spectra", agent="camb_context", work_dir=tmp_path / "out")
    prompt = server.prompts("camb_context")[0]
    for part in (
        "docstrings of the installed version 1.6.0",
        "# camb\n\nA CAMB of this test.",
        "## camb.results.get_results(params, lmax=2500)\n\nRun it; spectra in muK^2.",
        "### camb.results.CAMBdata.power(self, spec='total')\n\nLensed l(l+1)/2pi.",
        "# camb.broken cannot be imported: 3",
    ):
        assert part in prompt, part
