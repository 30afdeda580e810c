"""One engine, one process: loads a GGUF with a peer's library and times the cases it is given.

compare.py starts it with the interpreter that has the library: `python worker.py '<json>'`. It answers with
one JSON object per line: first `{"version", "load_seconds"}`, then `{"case", "tokens_per_second": [...]}`.
"""

import json
import os
import random
import sys
import time

from bindings import LIBRARIES
from cases import Case, by_batch

WARM_UP_STEPS = 4


class Runner:
    """Times cases on a binding."""

    def __init__(self, peer, request):
        self.peer = peer
        self.request = request
        self.random = random.Random(request["seed"])

    def token(self):
        return self.random.randrange(self.peer.vocab_size)

    def prefill(self, tokens, sequence=0):
        """Feeds a prompt of random tokens, logits for the last; seconds."""
        rows = [(self.token(), i, sequence, i == tokens - 1) for i in range(tokens)]
        chunk = self.peer.settings["n_batch"]
        start = time.perf_counter()
        for first in range(0, tokens, chunk):
            self.peer.decode(rows[first:first + chunk])
        return time.perf_counter() - start

    def fill(self, context, sequence):
        """Puts `context` tokens into an empty sequence; the first time by prefill, later from a file."""
        if context == 0:
            return
        path = os.path.join(self.request["scratch"], f"{self.request['library']}-{context}-{sequence}")
        if self.peer.restore(path, sequence):
            return
        self.peer.forget(sequence, 0)
        self.prefill(context, sequence)
        self.peer.save(path, sequence)

    def steps(self, context, batch, count):
        """Decodes `count` tokens per sequence behind `context`, then drops them; seconds."""
        start = time.perf_counter()
        for i in range(count):
            self.peer.decode([(self.token(), context + i, sequence, True) for sequence in range(batch)])
        seconds = time.perf_counter() - start
        for sequence in range(batch):
            self.peer.forget(sequence, context)
        return seconds

    def clear(self, batch):
        for sequence in range(batch):
            self.peer.forget(sequence, 0)

    def rates(self, case):
        """Tokens per second of all sequences together, one value per repeat."""
        repeats = range(self.request["repeats"])
        self.clear(case.batch)
        if case.kind == "prefill":
            # Buffers were sized when the context opened; one micro-batch touches them all.
            self.prefill(min(case.tokens, self.peer.settings["n_ubatch"]))
            rates = []
            for _ in repeats:
                self.clear(1)
                rates.append(case.tokens / self.prefill(case.tokens))
            return rates
        for sequence in range(case.batch):
            self.fill(case.tokens, sequence)
        count = self.request["decode_tokens"]
        self.steps(case.tokens, case.batch, min(WARM_UP_STEPS, count))
        return [case.batch * count / self.steps(case.tokens, case.batch, count) for _ in repeats]


def room(cases, decode_tokens):
    """Tokens a sequence must hold."""
    return max(case.tokens + (decode_tokens if case.kind == "decode" else 0) for case in cases)


def main():
    request = json.loads(sys.argv[1])
    # The libraries write to standard output too: answers keep it, everything else goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    start = time.perf_counter()
    peer = LIBRARIES[request["library"]](request["model"], request["settings"])
    answer(version=peer.version, load_seconds=time.perf_counter() - start)
    runner = Runner(peer, request)
    for batch, cases in by_batch([Case.parse(name) for name in request["cases"]]).items():
        peer.open(room(cases, request["decode_tokens"]), batch)
        for case in cases:
            answer(case=case.name, tokens_per_second=runner.rates(case))
    peer.close()


if __name__ == "__main__":
    main()
