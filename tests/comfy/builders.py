"""The node pack's example workflows."""

import json
from pathlib import Path

PACK = Path(__file__).parents[2] / "clip2clap_comfy"


def workflow(name, **changes):
    """Return an example with other inputs, so that it is fast."""
    steps = json.loads((PACK / "workflows" / f"{name}.json").read_text())
    for step in steps.values():
        step["inputs"] |= {k: v for k, v in changes.items() if k in step["inputs"]}
    return steps
