"""`python3 -m unittest discover tools/compare-peers`: no engine is needed, stand-ins answer for them."""

import json
import os
import stat
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace
from unittest import mock

import compare
import engines
import table
import worker
from cases import Case, by_batch, planned

STAND_IN = """#!{python}
import json, sys
arguments = sys.argv
def numbers(flag):
    text = arguments[arguments.index(flag) + 1]
    return [] if text == "none" else [int(item) for item in text.split(",")]
(batch,), contexts, prompts = numbers("--batch"), numbers("--context"), numbers("--prompt-tokens")
speed = lambda rate: {{"samples": [rate]}}
print(json.dumps({{
    "limits": {{"isa": "avx2", "read_before": {{"best": 2e9}}, "read_after": {{"best": 3e9}}}},
    "prefill": [{{"prompt_tokens": n, "batch": 1, "tokens_per_second": speed(1000.0)}} for n in prompts],
    "decode": [{{"context": n, "batch": batch, "tokens_per_second": speed(30.0 * batch),
                "bytes_per_token": 5e7}} for n in contexts],
}}))
"""


class FakePeer:
    """A binding that computes nothing and remembers what was asked."""

    vocab_size = 10
    settings = {"n_batch": 4, "n_ubatch": 2}

    def __init__(self):
        self.cached, self.calls = {}, []

    def decode(self, rows):
        self.calls.append(len(rows))
        for token, position, sequence, _ in rows:
            assert 0 <= token < self.vocab_size
            assert position == self.cached.get(sequence, 0), "positions must be consecutive"
            self.cached[sequence] = position + 1

    def forget(self, sequence, position):
        self.cached[sequence] = min(self.cached.get(sequence, 0), position)

    def save(self, path, sequence):
        with open(path, "w", encoding="ascii") as out:
            out.write(str(self.cached[sequence]))

    def restore(self, path, sequence):
        if not os.path.exists(path):
            return False
        with open(path, encoding="ascii") as saved:
            self.cached[sequence] = int(saved.read())
        return True


class Cases(unittest.TestCase):
    def test_names_are_read_back(self):
        for case in (Case("prefill", 512), Case("decode", 0), Case("decode", 8192, 16)):
            self.assertEqual(Case.parse(case.name), case)
        for bad in ("", "decode", "train 5", "decode 1 x2 x3"):
            with self.assertRaises(ValueError, msg=bad):
                Case.parse(bad)

    def test_one_alone_is_always_planned_and_never_twice(self):
        cases = planned([8, 8], [4, 0], [1, 16], [0])
        names = [case.name for case in cases]
        self.assertEqual(names, ["decode 0", "decode 4", "prefill 8", "decode 0 x16"])
        self.assertEqual(list(by_batch(cases)), [1, 16])


class Ratios(unittest.TestCase):
    def test_the_best_peer_and_ratios_within_rounds(self):
        rounds = [{"fathom": {"a": 20.0}, "x": {"a": 10.0}, "y": {"a": 5.0}},
                  {"fathom": {"a": 60.0}, "x": {"a": 20.0}, "y": {"a": 50.0}},
                  {"fathom": {"a": 40.0}, "x": {"a": 10.0}, "y": {"a": 6.0}}]
        row = table.compare(rounds, "a")
        self.assertEqual(row["best_peer"], "x", "of the best median, not of the best round")
        self.assertEqual(row["ratio"]["samples"], [2.0, 3.0, 4.0])
        self.assertEqual(row["ratio"]["median"], 3.0)
        self.assertEqual(row["engines"]["fathom"]["max"], 60.0)

    def test_no_ratio_without_both(self):
        for first in ({"x": {"a": 1.0}}, {"fathom": {"a": 1.0}}, {"fathom": {"a": 1.0}, "x": {"b": 1.0}}):
            self.assertNotIn("ratio", table.compare([first], "a"))

    def test_rendered(self):
        row = table.compare([{"fathom": {"decode 0": 24.0}, "x": {"decode 0": 12.0}}], "decode 0")
        text = table.render([row], ["fathom", "x"])
        self.assertIn("2.00 (2.00–2.00) x", text)
        shares = table.render_bandwidth([row], ["fathom", "x"], {"decode 0": 1e9}, 48e9)
        self.assertIn("50% (24.0 GB/s)", shares)
        self.assertIn("25% (12.0 GB/s)", shares)


class Worker(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.peer = FakePeer()
        request = {"seed": 0, "repeats": 2, "decode_tokens": 6, "library": "fake", "scratch": scratch.name}
        self.runner = worker.Runner(self.peer, request)

    def test_prefill_in_chunks_after_a_warm_up(self):
        self.assertEqual(len(self.runner.rates(Case("prefill", 9))), 2)
        self.assertEqual(self.peer.calls, [2, 4, 4, 1, 4, 4, 1])

    def test_decode_behind_a_context_that_is_filled_once(self):
        for fill in ([4, 3], []):
            self.peer.calls.clear()
            self.assertEqual(len(self.runner.rates(Case("decode", 7))), 2)
            self.assertEqual(self.peer.calls, fill + [1] * (4 + 6 + 6))
            self.assertEqual(self.peer.cached[0], 7)

    def test_a_batch_is_one_call_per_step(self):
        self.runner.rates(Case("decode", 0, 3))
        self.assertEqual(self.peer.calls, [3] * (4 + 6 + 6))

    def test_room_for_the_longest(self):
        cases = [Case("prefill", 10), Case("decode", 9)]
        self.assertEqual(worker.room(cases, 6), 15)
        self.assertEqual(worker.room(cases[:1], 6), 10)


class Commands(unittest.TestCase):
    def test_llama_bench(self):
        options = SimpleNamespace(model="m", threads=2, repeats=1, peer_ubatch=512, flash_attention=True,
                                  ik_repack=True, decode_tokens=64)
        for is_ik, case, expected in (
            (False, Case("prefill", 512), "-fa 1 -p 512 -n 0"),
            (False, Case("decode", 0), "-fa 1 -p 0 -n 64"),
            (False, Case("decode", 9), "-fa 1 -p 0 -n 64 -d 9"),
            (True, Case("decode", 9), "-fa 1 -mla 3 -fmoe 1 -rtr 1 -p 0 -n 0 -gp 9,64"),
        ):
            command = engines.LlamaBench("x", "bench", is_ik, options).command(case)
            self.assertTrue(" ".join(command).endswith(expected), command)


    def test_llama_bench_with_notes_in_its_json(self):
        output = '[\nloaded [0 x 1]\n  {\n    "build_commit": "abc",\n    "samples_ts": [ 1.5 ]\n  }\n]\n'
        self.assertEqual(engines.read_llama_bench(output), ([1.5], "abc"))


class CommandLine(unittest.TestCase):
    def run_main(self, *arguments):
        out, log = StringIO(), StringIO()
        called = mock.patch.object(sys, "argv", ["compare.py", *arguments])
        with called, redirect_stdout(out), redirect_stderr(log):
            with self.assertRaises(SystemExit) as ended:
                compare.main()
        return ended.exception.code, out.getvalue(), log.getvalue()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        names = ("m.gguf", "fathom", "out.json")
        self.model, self.fathom, self.json = (os.path.join(folder.name, name) for name in names)
        for path, text in ((self.model, "GGUF"), (self.fathom, STAND_IN.format(python=sys.executable))):
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)
        os.chmod(self.fathom, stat.S_IRWXU)

    def test_whole_run(self):
        status, out, log = self.run_main("--model", self.model, "--fathom", self.fathom, "--rounds", "2",
                                         "--context", "0,64", "--prefill", "32", "--json", self.json)
        self.assertEqual(status, 0, log)
        self.assertIn("480 (480–480)", out, "16 x 30")
        self.assertIn("50% (1.5 GB/s)", out)
        with open(self.json, encoding="utf-8") as written:
            report = json.load(written)
        self.assertEqual(report["rounds_done"], 2)
        self.assertEqual(report["read_bytes_per_second"], 3e9)
        self.assertEqual(len(report["runs"]), 2)

    def test_refusals(self):
        for arguments, expected in (
            (["--model", self.model], "nothing to run"),
            (["--model", "no.gguf", "--fathom", self.fathom], "no such file"),
            (["--model", self.model, "--fathom", "/no/fathom"], "did not start"),
            (["--model", self.model, "--llama-python", "false"], "exit status 1"),
            (["--model", self.model, "--rounds", "0"], "above 0"),
            (["--model", self.model, "--context", "1,x"], "none"),
        ):
            status, _, log = self.run_main(*arguments)
            self.assertTrue(expected in f"{status} {log}" and status != 0, f"{arguments}: {status} {log}")


if __name__ == "__main__":
    unittest.main()
