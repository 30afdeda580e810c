"""What is compared: each engine runs a list of cases in a child process of its own and returns rates.

A child per run means that engines never overlap and that one's memory is gone before the next begins.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import namedtuple

from cases import Case, by_batch

# Tokens per second of each case (a list, one per repeat), and what else the engine said.
Run = namedtuple("Run", "rates facts")


class Failed(RuntimeError):
    """An engine ended badly; the message has the end of its log."""


def run_child(command, timeout):
    """Standard output of a child that must succeed."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            child = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=timeout)
            failure = f"exit status {child.returncode}" if child.returncode else None
        except subprocess.TimeoutExpired:
            failure = f"no end after {timeout} s (--timeout)"
        except OSError as error:
            raise Failed(f"{command[0]} did not start: {error}") from error
        if failure:
            log.seek(0)
            tail = "".join(f"    {line}" for line in log.readlines()[-12:])
            raise Failed(f"{command[0]}: {failure}\n{tail}")
    return child.stdout


class Fathom:
    """`fathom bench --json`, once per batch size, because it prefills in every batch size too."""

    name = "fathom"

    def __init__(self, binary, model, options):
        self.binary, self.model, self.options = binary, model, options

    def supports(self, case):
        return case.kind == "decode" or case.batch == 1

    def command(self, cases):
        """For cases of one batch size."""
        prompts = [str(case.tokens) for case in cases if case.kind == "prefill"]
        contexts = [str(case.tokens) for case in cases if case.kind == "decode"]
        options = self.options
        command = [self.binary, "bench", "--json", "--model", self.model]
        command += ["--threads", str(options.threads), "--repeats", str(options.repeats)]
        command += ["--prompt-tokens", ",".join(prompts) or "none", "--context", ",".join(contexts) or "none"]
        command += ["--decode-tokens", str(options.decode_tokens), "--batch", str(cases[0].batch)]
        return command + options.fathom_args

    def run(self, cases):
        rates, facts = {}, {}
        for group in by_batch(cases).values():
            report = json.loads(run_child(self.command(group), self.options.timeout))
            found, told = read_fathom(report)
            rates.update((case, found[case]) for case in group)
            told["bytes_per_token"] = {**facts.get("bytes_per_token", {}), **told["bytes_per_token"]}
            facts.update(told)
        return Run(rates, facts)


def read_fathom(report):
    """Rates and facts of a `fathom bench --json` report."""
    rates, bytes_per_token = {}, {}
    for result in report["prefill"]:
        case = Case("prefill", result["prompt_tokens"], result["batch"])
        rates[case] = result["tokens_per_second"]["samples"]
    for result in report["decode"]:
        case = Case("decode", result["context"], result["batch"])
        rates[case] = result["tokens_per_second"]["samples"]
        bytes_per_token[case.name] = result["bytes_per_token"]
    limits = report["limits"]
    reads = [limits["read_before"]["best"], (limits["read_after"] or limits["read_before"])["best"]]
    facts = {"isa": limits["isa"], "read_bytes_per_second": max(reads), "bytes_per_token": bytes_per_token}
    return rates, facts


class Library:
    """A peer through its Python package: worker.py in the interpreter that has it."""

    def __init__(self, name, library, python, options):
        self.name, self.library, self.python, self.options = name, library, python, options

    def supports(self, case):
        return case.kind == "decode" or case.batch == 1

    def request(self, cases):
        options = self.options
        settings = {"threads": options.threads, "n_batch": 2048, "n_ubatch": options.peer_ubatch}
        settings |= {"flash_attention": options.flash_attention, "mla": 3, "repack": options.ik_repack}
        request = {"library": self.library, "model": os.path.abspath(options.model), "settings": settings}
        request |= {"repeats": options.repeats, "decode_tokens": options.decode_tokens, "seed": options.seed}
        return request | {"scratch": options.scratch, "cases": [case.name for case in cases]}

    def run(self, cases):
        worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
        output = run_child([self.python, worker, json.dumps(self.request(cases))], self.options.timeout)
        lines = [json.loads(line) for line in output.splitlines()]
        rates = {Case.parse(line["case"]): line["tokens_per_second"] for line in lines if "case" in line}
        return Run(rates, lines[0])


class LlamaBench:
    """A peer through its llama-bench binary, which knows no batches of sequences."""

    def __init__(self, name, binary, is_ik, options):
        self.name, self.binary, self.is_ik, self.options = name, binary, is_ik, options

    def supports(self, case):
        return case.batch == 1

    def command(self, case):
        """One case; llama-bench runs each of its own cases in a context of the right size."""
        options = self.options
        command = [self.binary, "-m", options.model, "-o", "json", "-t", str(options.threads)]
        command += ["-r", str(options.repeats), "-ub", str(options.peer_ubatch)]
        command += ["-fa", str(int(options.flash_attention))]
        if self.is_ik:
            command += ["-mla", "3", "-fmoe", "1", "-rtr", str(int(options.ik_repack))]
        generated = str(options.decode_tokens)
        if case.kind == "prefill":
            return command + ["-p", str(case.tokens), "-n", "0"]
        if case.tokens == 0:
            return command + ["-p", "0", "-n", generated]
        if self.is_ik:
            return command + ["-p", "0", "-n", "0", "-gp", f"{case.tokens},{generated}"]
        return command + ["-p", "0", "-n", generated, "-d", str(case.tokens)]

    def run(self, cases):
        rates, facts = {}, {}
        for case in cases:
            rates[case], commit = read_llama_bench(run_child(self.command(case), self.options.timeout))
            facts = {"version": f"llama-bench {commit}"}
        return Run(rates, facts)


def read_llama_bench(output):
    """Rates and the build's name from `-o json`, between whose bracket and object the fork prints notes."""
    result = json.loads(output[output.index("\n  {"):output.rindex("}") + 1])
    return result["samples_ts"], result["build_commit"]


def chosen(options):
    """The engines named on the command line, Fathom first."""
    engines = []
    if options.fathom:
        engines.append(Fathom(options.fathom, options.fathom_model or options.model, options))
    if options.llama_python:
        engines.append(Library("llama.cpp", "llama_cpp", options.llama_python, options))
    elif options.llama_bench:
        engines.append(LlamaBench("llama.cpp", options.llama_bench, False, options))
    if options.ik_python:
        engines.append(Library("ik_llama.cpp", "ik_llama_cpp", options.ik_python, options))
    elif options.ik_bench:
        engines.append(LlamaBench("ik_llama.cpp", options.ik_bench, True, options))
    if not engines:
        sys.exit("nothing to run: give --fathom, --llama-python, --ik-python, --llama-bench or --ik-bench")
    return engines
