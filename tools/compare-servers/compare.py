#!/usr/bin/env python3
"""Sends the same load to OpenAI-compatible servers in turn and prints how they compare.

Throughput: N clients at once, each with a prompt of its own, streamed; tokens of all answers over the time
from the first request to the last token. First token: N clients whose prompts share a long beginning that
the server saw once before. Longest pause: between tokens of a running answer while a new long prompt is read.
Servers must be running, on this machine; nothing else is needed but Python.
"""

import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse

WORDS = """time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea body information""".split()


def text_of(words, seed):
    chooser = random.Random(seed)
    return " ".join(chooser.choice(WORDS) for _ in range(words))


class Server:
    def __init__(self, text):
        self.name, _, address = text.partition("=")
        address, _, self.key = address.partition(",")
        self.url = urllib.parse.urlsplit(address)
        if not (self.name and self.url.hostname):
            raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=http://HOST:PORT[/PATH][,KEY]")
        if self.url.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise argparse.ArgumentTypeError(f"{text!r}: only servers on this machine are measured")

    def complete(self, prompt, tokens, timeout):
        """Seconds to the first token, tokens of the answer, and the longest time between two of them in seconds."""
        started = time.perf_counter()
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=timeout)
        body = {"model": self.model(), "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}}
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = "Bearer " + self.key
        connection.request("POST", self.url.path.rstrip("/") + "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{self.name}: {response.status} {response.read(2000).decode(errors='replace')}")
        first, last, longest, usage, chunks = None, None, 0.0, None, 0
        for line in response:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if event.get("choices"):
                chunks, now = chunks + 1, time.perf_counter()
                first, longest, last = first or now, max(longest, now - (last or now)), now
            usage = event.get("usage") or usage
        connection.close()
        return (first or time.perf_counter()) - started, usage["completion_tokens"] if usage else chunks, longest

    def model(self):
        if not hasattr(self, "_model"):
            connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=60)
            headers = {"Authorization": "Bearer " + self.key} if self.key else {}
            connection.request("GET", self.url.path.rstrip("/") + "/v1/models", headers=headers)
            self._model = json.loads(connection.getresponse().read())["data"][0]["id"]
        return self._model


def together(server, prompts, tokens, timeout):
    """Runs all prompts at once: seconds in all, results of each."""
    results, errors = [None] * len(prompts), []

    def one(index):
        try:
            results[index] = server.complete(prompts[index], tokens, timeout)
        except Exception as error:  # reported below, with the server's name
            errors.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(prompts))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - started, results


def longest_pause(server, args, seed):
    """Of a running answer, in seconds, while a prompt that nobody has seen is read."""
    running = []
    prompt = text_of(20, f"{seed}/running")
    answer = threading.Thread(target=lambda: running.append(server.complete(prompt, args.pause_tokens, args.timeout)))
    answer.start()
    time.sleep(1.0)
    server.complete(text_of(args.prefix_words, f"{seed}/long"), 1, args.timeout)
    if not answer.is_alive():
        raise RuntimeError(f"{server.name}: the answer ended before the prompt was read; raise --pause-tokens")
    answer.join()
    return running[0][2]


def prefix_prompts(args, seed):
    beginning = text_of(args.prefix_words, "prefix")
    return [f"{beginning} {text_of(10, f'{seed}/{i}')}" for i in range(args.prefix_clients)]


def warm(args):
    """Shows every server the shared beginning, as often as there are clients: a slot may keep it for itself."""
    for server in args.server:
        server.complete(text_of(20, "warm"), 8, args.timeout)
        if args.prefix_words:
            server.complete(text_of(args.prefix_words, "prefix"), 1, args.timeout)
            together(server, prefix_prompts(args, "warm"), 1, args.timeout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", type=Server, nargs="+", metavar="NAME=URL[,KEY]")
    parser.add_argument("--clients", default="1,4,16", help="clients at once (default 1,4,16)")
    parser.add_argument("--prompt-words", type=int, default=110, help="words of a prompt (default 110, about 128 tokens)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer (default 64)")
    parser.add_argument("--prefix-words", type=int, default=1700,
                        help="words of the shared beginning (default 1700, about 2,000 tokens; 0: leave this out)")
    parser.add_argument("--prefix-clients", type=int, default=16)
    parser.add_argument("--pause-tokens", type=int, default=0,
                        help="tokens of the answer that is watched for pauses (default 0: leave this out)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phase", choices=["all", "warm", "measure"], default="all",
                        help="only warm the servers up, or only measure servers that are warm (default all)")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--json", help="write everything there")
    args = parser.parse_args()
    clients = [int(n) for n in args.clients.split(",")]
    samples = {}
    # Another run's prompts must not be found in a cache.
    seed = time.time_ns()
    if args.phase != "measure":
        warm(args)
    if args.phase == "warm":
        return
    for round_number in range(args.rounds):
        order = args.server if round_number % 2 == 0 else args.server[::-1]
        for n in clients:
            seed += 1
            for server in order:
                prompts = [text_of(args.prompt_words, f"{seed}/{i}") for i in range(n)]
                seconds, results = together(server, prompts, args.tokens, args.timeout)
                rate = sum(tokens for _, tokens, _ in results) / seconds
                samples.setdefault(f"tokens/s x{n}", {}).setdefault(server.name, []).append(rate)
                print(f"round {round_number + 1}: {server.name}: {n} at once: {rate:.1f} tokens/s", flush=True)
        if args.prefix_words:
            seed += 1
            for server in order:
                _, results = together(server, prefix_prompts(args, seed), 8, args.timeout)
                first = statistics.median(first for first, _, _ in results)
                row = f"first token, s, x{args.prefix_clients}, shared prefix"
                samples.setdefault(row, {}).setdefault(server.name, []).append(first)
                print(f"round {round_number + 1}: {server.name}: first token after {first:.2f} s", flush=True)
        if args.pause_tokens:
            seed += 1
            for server in order:
                pause = longest_pause(server, args, seed)
                row = "longest pause, s, long prompt comes"
                samples.setdefault(row, {}).setdefault(server.name, []).append(pause)
                print(f"round {round_number + 1}: {server.name}: longest pause {pause:.2f} s", flush=True)
    names = [server.name for server in args.server]
    print("\n" + " " * 36 + "".join(f"{name:>26}" for name in names) + "   first / second")
    for row, by_server in samples.items():
        cells = [f"{statistics.median(by_server[n]):.2f} ({min(by_server[n]):.2f}-{max(by_server[n]):.2f})" for n in names]
        ratio = ""
        if len(names) > 1:
            pairs = [a / b for a, b in zip(by_server[names[0]], by_server[names[1]])]
            ratio = f"{statistics.median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})"
        print(f"{row:<36}" + "".join(f"{cell:>26}" for cell in cells) + "   " + ratio)
    if args.json:
        with open(args.json, "w") as out:
            json.dump(samples, out, indent=1)


if __name__ == "__main__":
    main()
