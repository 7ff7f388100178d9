"""The same image under two names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ._facts import Facts
from .finding import Finding


def check_duplicates(all_facts: Sequence[Facts]) -> Iterator[Finding]:
    """Images whose decoded gray values are the same, within a split and across splits."""
    groups: dict[str, list[Facts]] = {}
    for facts in all_facts:
        # All-black images are no copies of each other; they have a finding of their own.
        if facts.problem is None and facts.value_range[0] != facts.value_range[1]:
            groups.setdefault(facts.digest, []).append(facts)
    same = [group for group in groups.values() if len(group) > 1]
    for across, severity, message, mend in (
        (
            True,
            "error",
            "the same pixels in two splits",
            "a test image seen in training makes the result worthless: keep one of each",
        ),
        (False, "warning", "the same pixels twice in a split", "keep one of each"),
    ):
        these = [group for group in same if (len({facts.splits for facts in group}) > 1) == across]
        if these:
            yield Finding(
                severity,  # type: ignore[arg-type]
                "duplicate",
                message,
                tuple(group[0].name for group in these),
                tuple(
                    " = ".join(f"{facts.name} ({'/'.join(facts.splits)})" for facts in group)
                    for group in these
                ),
                mend,
            )
