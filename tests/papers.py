"""A local arXiv and a local service that reads PDFs, and PDFs made by hand."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def pdf(*pages):
    """A PDF with one line of text on each page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{each}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return body + f"{tail}startxref\n{len(body)}\n%%EOF\n".encode()


class Papers:
    """What the server has and what it was asked."""

    def __init__(self):
        self.files = {}
        self.redirects = {}
        self.pages = ["# Title\n\n1. Introduction\nText.", "2. Data\n| a | b |"]
        self.ocr_status = 200
        self.asked = []
        self.read = []
        self.url = ""


@contextlib.contextmanager
def serve(monkeypatch):
    papers = Papers()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def answer(self, status, body, kind, **headers):
            self.send_response(status)
            for name, text in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            papers.asked.append(self.path)
            if self.path in papers.redirects:
                self.answer(302, b"", "text/plain", Location=papers.redirects[self.path])
            elif self.path in papers.files:
                body = papers.files[self.path]
                self.answer(200, body, "application/pdf" if body.startswith(b"%PDF") else "text/html")
            else:
                self.answer(404, b"not here", "text/plain")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            papers.read.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            if papers.ocr_status != 200:
                self.answer(papers.ocr_status, b'{"message": "bad key test-mistral"}', "application/json")
                return
            pages = [{"index": n, "markdown": page} for n, page in enumerate(papers.pages)]
            usage = {"pages_processed": len(pages), "doc_size_bytes": 321}
            reply = json.dumps({"pages": pages, "model": body["model"], "usage_info": usage})
            self.answer(200, reply.encode(), "application/json")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        papers.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("ARXIV_BASE_URL", papers.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield papers
        finally:
            server.shutdown()
            thread.join()
