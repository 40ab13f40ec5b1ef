"""A model on this machine: Ollama, vLLM, llama.cpp, or whatever else speaks OpenAI's format.

OPENAI_BASE_URL says where, such as http://localhost:11434/v1; without it Ollama's usual address is taken.
"""

from __future__ import annotations

import os

from offline import models

from cmbagent.testing import code
from cmbagent.workflows import WorkflowExecutor, get_workflow

MODEL = os.environ.get("MODEL", "qwen3:30b")
SCRIPT = {"engineer": code("print('sinc(1) =', 0.8414709848)", filename="sinc.py")}

with models(SCRIPT):
    server = os.environ.setdefault("OPENAI_BASE_URL", "http://localhost:11434/v1")
    executor = WorkflowExecutor(
        workflow=get_workflow("one_shot"),
        task="Print sin(x)/x at 1.",
        work_dir="example_output/local_models",
        api_keys={},
        options={
            "agent_llm_configs": {"engineer": {"model": MODEL}},
            # One at a time, however many runs there are: they share one GPU.
            "rates": {server: {"concurrency": 1}},
            "call_deadline_seconds": 900,
        },
    )
    executor.run_sync()

result = executor.results[0].output_data["result"]
print(result["current_status"], "on", result["cost_dataframe"][0]["Model"])
