"""A model server for tests: scripted agents behind the real wire formats, on this machine alone.

``ModelServer`` answers OpenAI Chat Completions, Anthropic Messages and Gemini ``generateContent``
requests on ``127.0.0.1``, streaming or not as asked. Which agent speaks it reads from the system
prompt, which opens with ``You are the <name> agent``; what that agent says, and how the connection
misbehaves, is the script:

```python
from cmbagent import one_shot
from cmbagent.testing import Fault, ModelServer, code

script = {"engineer": [Fault.status(429), code("print(6 * 7)", filename="answer.py")]}
with ModelServer(script) as server, server.environment():
    results = one_shot("Six times seven?", work_dir="out", api_keys=server.api_keys)
server.assert_calls(["engineer", "engineer"])
```

Nothing beyond the standard library is used.
"""

from cmbagent.testing.replies import Fault, Reply, code, ideas, judgement, notes, plan, review, step
from cmbagent.testing.server import ModelServer, ScriptError
from cmbagent.testing.wire import Call

__all__ = [
    "Call",
    "Fault",
    "ModelServer",
    "Reply",
    "ScriptError",
    "code",
    "ideas",
    "judgement",
    "notes",
    "plan",
    "review",
    "step",
]
