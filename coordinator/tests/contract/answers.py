"""Answers are as the document says: schemathesis calls every operation with good and bad requests, always the same ones.

The document is the coordinator's own. What is not in it (headers that every answer must have) is checked here as well.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from coordinator import Coordinator
from world import World

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLES = 6
SEED = 20261123
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "headers_of_every_answer",
]
# The first two would take the key away with which everything is called, and the third has no end; the API tests over the
# router call them.
LEFT_OUT = ["assign_own_key", "refresh_own_key", "follow_changes"]


def main():
    # Made-up addresses of webhooks must not keep a test waiting.
    with Coordinator({"DROVER_WEBHOOKS__TIMEOUT_SECONDS": "2"}) as coordinator, tempfile.TemporaryDirectory() as folder:
        world = World(coordinator)
        known = {name: value for name, value in vars(world).items() if name != "c"}
        known |= {"key": coordinator.key, "url": coordinator.url}
        facts = pathlib.Path(folder) / "world.json"
        facts.write_text(json.dumps(known))
        arguments = [
            str(pathlib.Path(sys.executable).with_name("st")),
            "run",
            f"{coordinator.url}/api/v1/openapi.json",
            f"--checks={','.join(CHECKS)}",
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={EXAMPLES}",
            f"--seed={SEED}",
            "--generation-database=none",
            "--request-timeout=20",
            "--continue-on-failure",
            "--no-shrink",
            "--warnings=off",
            "--suppress-health-check=all",
            *(f"--exclude-operation-id={name}" for name in LEFT_OUT),
            *sys.argv[1:],
        ]
        called = pathlib.Path(folder) / "called.json"
        environment = os.environ | {
            "SCHEMATHESIS_HOOKS": "hooks",
            "PYTHONPATH": str(HERE),
            "DROVER_WORLD": str(facts),
            "DROVER_CALLED": str(called),
        }
        code = subprocess.run(arguments, cwd=folder, env=environment, check=False).returncode
        assert code == 0, "an answer is not as the document says"
        if not sys.argv[1:]:
            missing = operations(coordinator) - set(json.loads(called.read_text())) - set(LEFT_OUT)
            assert not missing, f"these operations were never called: {sorted(missing)}"


def operations(coordinator):
    paths = coordinator.json("GET", "/openapi.json")["paths"].values()
    return {operation["operationId"] for item in paths for operation in item.values() if "operationId" in operation}


if __name__ == "__main__":
    main()
