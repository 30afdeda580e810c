"""What is measured: a prefill of N tokens, or decode behind a context in a batch.

One `Case` is one row of the table. It travels between the processes as its name.
"""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Case:
    """`tokens` is the prompt's length for a prefill, the context before the first step for decode."""

    kind: str
    tokens: int
    batch: int = 1

    @property
    def name(self):
        """As in the table and the JSON: `prefill 512`, `decode 2048`, `decode 0 x16`."""
        return f"{self.kind} {self.tokens}" + (f" x{self.batch}" if self.batch > 1 else "")

    @classmethod
    def parse(cls, name):
        """The inverse of `name`."""
        kind, tokens, *batch = name.split()
        if kind not in ("prefill", "decode") or len(batch) > 1:
            raise ValueError(f"no case: {name!r}")
        return cls(kind, int(tokens), int(batch[0].removeprefix("x")) if batch else 1)


def planned(prompts, contexts, batches, batch_contexts):
    """Every case in the order it runs: cheap ones first, contexts rising."""
    cases = [Case("decode", context) for context in sorted(set(contexts))]
    cases += [Case("prefill", tokens) for tokens in sorted(set(prompts))]
    for batch in sorted(set(batches) - {1}):
        cases += [Case("decode", context, batch) for context in sorted(set(batch_contexts))]
    return cases


def by_batch(cases):
    """Groups that can share one cache: `{batch: [case, …]}` in the given order."""
    groups = {}
    for case in cases:
        groups.setdefault(case.batch, []).append(case)
    return groups
