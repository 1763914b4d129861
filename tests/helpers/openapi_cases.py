"""Requests that schemathesis generates from the OpenAPI document, and counts of responses that violate it.

The tests send some, the benchmark sends thousands.
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
MAX_PRINTED = 20
Shown = Callable[[Iterable[Any]], Iterable[Any]]


def ask(base: str, key: str, ids: Sequence[str], cases: int, start: int, shown: Shown = iter) -> Counter[str]:
    """Send `cases` requests to all operations of the service at `base`; count violations and statuses.

    Half of the requests conform to the document and half do not; half of either use item ids of the shop. An operation
    with few distinct cases leaves its share to the others.
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
    valid, invalid = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

    @seed(start)
    @settings(
        max_examples=share,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # nothing is shrunk, because all cases are counted
        suppress_health_check=list(HealthCheck),
    )
    @given(case=valid | invalid)
    def each(case: Any) -> None:
        if known.random() < 0.5:
            _use_existing_items(case, ids, known)
        response = case.call(headers={"authorization": f"Bearer {key}"})
        counts["cases"] += 1
        counts[f"status_{response.status_code}"] += 1
        for name, checks in CHECKS.items():
            try:
                case.validate_response(response, checks=checks)
            except (Failure, FailureGroup) as failure:
                counts[name] += 1
                if counts[name] <= MAX_PRINTED:
                    print(f"{name}: {case.method} {case.formatted_path}\n{failure}\n", file=sys.stderr)

    each()


def _use_existing_items(case: Any, ids: Sequence[str], known: random.Random) -> None:
    """Replace generated item ids with ids of the shop."""
    if case.path_parameters and "item_id" in case.path_parameters:
        case.path_parameters["item_id"] = known.choice(ids)
    if isinstance(case.body, dict):
        for name in ("item_ids", "like", "unlike", "exclude"):
            if isinstance(case.body.get(name), list):
                case.body[name] = [known.choice(ids) for _ in case.body[name]]
        if isinstance(case.body.get("item_id"), str):
            case.body["item_id"] = known.choice(ids)
