#!/usr/bin/env python3
"""Runs Fathom and its peers in turn on one GGUF file and prints the ratio table.

Each round starts every engine once, in a process of its own, one after the other; odd rounds go backwards,
so that a machine that drifts favours nobody. Nothing is built or downloaded: peers are what you name.
"""

import argparse
import json
import os
import sys
import tempfile
from statistics import median

import engines
import quiet
import table
from cases import planned

EPILOG = """\
examples:
  compare.py --model m.gguf --fathom target/release/fathom --llama-python venv/bin/python
  compare.py --model m.gguf --llama-python a/bin/python --ik-python b/bin/python --rounds 7 --json out.json
  compare.py --model m.gguf --fathom fathom --llama-bench llama-bench --prefill none --batch none
"""


def counts(text):
    """`512,2048` or `none`."""
    try:
        numbers = [] if text == "none" else [int(item) for item in text.split(",")]
    except ValueError:
        numbers = [-1]
    if any(number < 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers with commas between, or none")
    return numbers


def positive(text):
    """A whole number above 0."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0")
    return int(text)


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, metavar="GGUF", help="the file that every engine runs")
    group = parser.add_argument_group("engines (at least one)")
    add_engine = group.add_argument
    add_engine("--fathom", metavar="BINARY", help="the fathom binary")
    add_engine("--fathom-model", metavar="PATH", help="what fathom runs in place of --model")
    add_engine("--fathom-args", metavar="ARGS", type=str.split, default=[],
               help="more arguments of `fathom bench`, in one string")
    add_engine("--llama-python", metavar="PYTHON", help="an interpreter that has llama-cpp-python")
    add_engine("--ik-python", metavar="PYTHON", help="an interpreter that has ik-llama-cpp-python")
    add_engine("--llama-bench", metavar="BINARY", help="llama.cpp's llama-bench: no batches of sequences")
    add_engine("--ik-bench", metavar="BINARY", help="ik_llama.cpp's llama-bench: no batches of sequences")
    group = parser.add_argument_group("what to measure")
    add_case = group.add_argument
    add_case("--context", metavar="N,…", type=counts, default=[0, 2048, 8192],
             help="tokens before decode begins (default 0,2048,8192)")
    add_case("--prefill", metavar="N,…", type=counts, default=[512, 2048],
             help="lengths of prompts (default 512,2048)")
    add_case("--batch", metavar="N,…", type=counts, default=[16],
             help="sequences decoded side by side (default 16), besides one alone")
    add_case("--batch-context", metavar="N,…", type=counts, default=[0],
             help="tokens before decode of such a batch begins (default 0)")
    add_case("--decode-tokens", metavar="N", type=positive, default=64,
             help="tokens each sequence decodes (default 64)")
    group = parser.add_argument_group("how")
    add_how = group.add_argument
    add_how("--rounds", metavar="N", type=positive, default=5, help="rounds of all engines (default 5)")
    add_how("--repeats", metavar="N", type=positive, default=1,
            help="of each case within a round; their median counts (default 1)")
    add_how("--threads", metavar="N", type=positive, default=2, help="of every engine (default 2)")
    add_how("--peer-ubatch", metavar="N", type=positive, default=512,
            help="tokens that a peer computes at once in prefill (default 512, theirs)")
    add_how("--no-flash-attention", dest="flash_attention", action="store_false", help="for the peers")
    add_how("--no-ik-repack", dest="ik_repack", action="store_false",
            help="ik_llama.cpp without run-time repacking")
    add_how("--seed", metavar="S", type=int, default=0, help="of the random tokens")
    add_how("--wait-quiet", metavar="S", type=positive, default=0,
            help="before each run wait at most so long for other processes to rest (default: do not)")
    add_how("--timeout", metavar="S", type=positive, default=3600, help="for one engine in one round")
    add_how("--json", metavar="FILE", help="write everything, each sample too; rewritten after every round")
    return parser.parse_args(arguments)


def one_round(number, order, cases, patience, note):
    """Runs every engine once: `{engine: {case: rate}}`, and one record per engine."""
    rates, records = {}, []
    for engine in order:
        wanted = [case for case in cases if engine.supports(case)]
        if not wanted:
            continue
        quiet.wait(patience)
        note(f"round {number}: {engine.name}")
        watch = quiet.Watch()
        run = engine.run(wanted)
        found = {case.name: median(values) for case, values in run.rates.items()}
        records.append({"round": number, "engine": engine.name, **watch.disturbance(),
                        "facts": run.facts, "tokens_per_second": found})
        rates[engine.name] = found
    return rates, records


def summary(options, names, cases, rounds, records):
    """Everything that goes into the JSON."""
    facts = {}
    for record in records:
        facts.setdefault(record["engine"], {}).update(record["facts"])
    rows = [table.compare(rounds, case.name) for case in cases]
    reads = [r["facts"]["read_bytes_per_second"] for r in records if r["engine"] == table.OURS]
    return {
        "model": os.path.basename(options.model),
        "model_bytes": os.path.getsize(options.model),
        "processor": quiet.processor_name(),
        "processors": os.cpu_count(),
        "rounds_wanted": options.rounds,
        "rounds_done": len(rounds),
        "options": {key: value for key, value in vars(options).items() if key not in ("scratch", "json")},
        "engines": {name: facts.get(name, {}) for name in names},
        "read_bytes_per_second": max(reads, default=None),
        "rows": [row for row in rows if row["engines"]],
        "runs": records,
    }


def text(report):
    """The report for a person."""
    names = list(report["engines"])
    lines = [f"{report['model']}, {report['model_bytes'] / 1e6:.0f} MB; {report['processor']}, "
             f"{report['options']['threads']} threads; {report['rounds_done']} rounds in turn; "
             "median (least–greatest)"]
    for name, facts in report["engines"].items():
        if "version" in facts:
            lines.append(f"{name}: {facts['version']}")
    body = "\n".join(lines) + "\n\n" + table.render(report["rows"], names)
    reads = report["read_bytes_per_second"]
    if reads:
        per_token = report["engines"][table.OURS]["bytes_per_token"]
        shares = table.render_bandwidth(report["rows"], names, per_token, reads)
        body += f"\nmemory reads: {reads / 1e9:.1f} GB/s at best, measured by fathom\n{shares}"
    others = [run["others"] for run in report["runs"]]
    stolen = [run["stolen"] for run in report["runs"]]
    body += (f"\nother processes used {median(others):.0%} of the machine in the middle run, "
             f"{max(others):.0%} in the worst; the hypervisor took {max(stolen):.0%} in the worst\n")
    if max(others) > 0.05:
        body += "disturbed: repeat on a quiet machine before believing a difference\n"
    return body


def main():
    options = parse(sys.argv[1:])
    if not os.path.isfile(options.model):
        sys.exit(f"--model {options.model}: no such file")
    chosen = engines.chosen(options)
    cases = planned(options.prefill, options.context, options.batch, options.batch_context)
    rounds, records, report = [], [], None

    def note(what):
        print(what, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="compare-peers-") as options.scratch:
        try:
            for number in range(options.rounds):
                order = chosen[::-1] if number % 2 else chosen
                rates, found = one_round(number + 1, order, cases, options.wait_quiet, note)
                rounds.append(rates)
                records += found
                report = summary(options, [engine.name for engine in chosen], cases, rounds, records)
                if options.json:
                    with open(options.json, "w", encoding="utf-8") as out:
                        json.dump(report, out, indent=1)
        except KeyboardInterrupt:
            note("stopped; the table has the whole rounds only")
        except engines.Failed as error:
            note(f"error: {error}")
    if report:
        print(text(report), end="")
    sys.exit(0 if len(rounds) == options.rounds else 1)


if __name__ == "__main__":
    main()
