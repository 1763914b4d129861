"""Requests that schemathesis makes of the OpenAPI document, and the count of answers that it does not promise.

For the tests, which make some, and for the benchmark, which makes thousands.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = {
    "server_errors": [not_a_server_error],
    "schema_violations": [
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
    ],
}
MAX_TOLD = 20
Shown = Callable[[Iterable[Any]], Iterable[Any]]


def ask(base: str, key: str, ids: Sequence[str], cases: int, start: int, shown: Shown = iter) -> Counter[str]:
    """Ask so many requests of all operations of the service at `base`, and count them by what was wrong, and by status.

    Half of them fit the document and half break it; in half of either, ids are those of the shop. Operations that
    have no more cases than few leave theirs to the others.
    """
    schema = schemathesis.openapi.from_dict(httpx.get(f"{base}/openapi.json").json())
    schema.config.update(base_url=base)
    operations = [each.ok() for each in schema.get_all_operations()]
    counts: Counter[str] = Counter()
    known = random.Random(start)
    while counts["cases"] < cases and operations:
        share = -(-(cases - counts["cases"]) // len(operations))
        start += 1
        rich = []
        for operation in shown(operations):
            before = counts["cases"]
            _ask(operation, key, ids, min(share, cases - before), start, known, counts)
            if counts["cases"] - before >= share:
                rich.append(operation)
        operations = rich
    return counts


def _ask(
    operation: Any, key: str, ids: Sequence[str], share: int, start: int, known: random.Random, counts: Counter[str]
) -> None:
    if share < 1:
        return
    fits, breaks = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

    @seed(start)
    @settings(
        max_examples=share,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # none is shrunk, as all are counted
        suppress_health_check=list(HealthCheck),
    )
    @given(case=fits | breaks)
    def each(case: Any) -> None:
        if known.random() < 0.5:
            _name_what_is_there(case, ids, known)
        response = case.call(headers={"authorization": f"Bearer {key}"})
        counts["cases"] += 1
        counts[f"status_{response.status_code}"] += 1
        for name, checks in CHECKS.items():
            try:
                case.validate_response(response, checks=checks)
            except (Failure, FailureGroup) as failure:
                counts[name] += 1
                if counts[name] <= MAX_TOLD:
                    print(f"{name}: {case.method} {case.formatted_path}\n{failure}\n", file=sys.stderr)

    each()


def _name_what_is_there(case: Any, ids: Sequence[str], known: random.Random) -> None:
    """Items of the shop in place of what was made up."""
    if case.path_parameters and "item_id" in case.path_parameters:
        case.path_parameters["item_id"] = known.choice(ids)
    if isinstance(case.body, dict):
        for name in ("item_ids", "like", "unlike", "exclude"):
            if isinstance(case.body.get(name), list):
                case.body[name] = [known.choice(ids) for _ in case.body[name]]
        if isinstance(case.body.get("item_id"), str):
            case.body["item_id"] = known.choice(ids)
