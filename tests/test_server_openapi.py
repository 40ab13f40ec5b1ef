"""The OpenAPI document, and answers to whatever fits it: no failures, and no other forms."""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cmbagent.phases import PhaseResult, PhaseStatus
from rest import API, phase_types, server, start, until, workflow

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

EXAMPLES = 20


async def nothing(context):
    return PhaseResult(PhaseStatus.COMPLETED, context)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        stack.enter_context(phase_types(nothing=nothing))
        yield stack.enter_context(server(tmp_path_factory.mktemp("server")))


@pytest.fixture(scope="module")
def known(client):
    """Ids that are there, for requests that would otherwise find nothing."""
    kind = workflow(client, "nothing")
    run_id = start(client, kind)
    until(client, run_id)
    return {"workflow_id": kind, "run_id": run_id, "phase_type": "planning"}


def try_all(client, change):
    """Sends what fits the document to every operation, changed, and checks the answers."""
    tried = []
    document = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        def ask(case):
            if change(case):
                case.call_and_validate(checks=CHECKS)
                tried.append(case.operation.label)

        ask()
    return set(tried)


def test_any_request_is_answered_in_form(client):
    assert len(try_all(client, lambda case: True)) >= 28


def test_any_request_for_what_is_there_is_answered_in_form(client, known):
    def meant(case):
        names = [name for name in case.path_parameters or {} if name in known]
        if not names or case.method == "DELETE":
            return False
        case.path_parameters = {**case.path_parameters, **{name: known[name] for name in names}}
        return True

    assert len(try_all(client, meant)) >= 18


def test_the_document_describes_everything(client):
    document = client.get("/openapi.json").json()
    listed = {
        f"{method.upper()} {path.removeprefix(API)}"
        for path, item in document["paths"].items()
        if path.startswith(API)
        for method in item
    }
    # As the specification lists them.
    assert listed >= {
        "GET /types", "GET /types/{phase_type}", "GET /types/{phase_type}/config-schema",
        "GET /workflows", "GET /workflows/{workflow_id}", "POST /workflows", "PUT /workflows/{workflow_id}",
        "DELETE /workflows/{workflow_id}", "POST /workflows/validate", "POST /workflows/{workflow_id}/run",
        "GET /runs", "GET /runs/{run_id}", "GET /runs/{run_id}/phases", "POST /runs/{run_id}/stop",
    }  # fmt: skip
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"] and operation["description"], (method, path)
            for parameter in operation.get("parameters", ()):
                assert parameter["description"], (method, path, parameter["name"])
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description") or "enum" in schema or name.startswith("HTTP"), name


def test_every_field_is_described_and_has_an_example(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name, schema in schemas.items():
        if name in ("HTTPValidationError", "ValidationError"):
            continue
        for field, entry in schema.get("properties", {}).items():
            assert entry.get("description"), (name, field)
            # Of another model's fields that one gives the examples.
            others = "$ref" in entry or "$ref" in entry.get("items", {})
            shown = any(word in entry for word in ("examples", "default", "const", "enum"))
            assert others or shown or "examples" in schema, (name, field)
