#!/usr/bin/env python3
"""Keeps many streaming requests open on a server on this machine, and counts what came of them.

Each of N clients asks, reads the stream to its end, and asks again, until the time is over; every tenth leaves
in the middle of its stream. Counted: answers, statuses (429 and 503 are answers too: come back later), streams
that broke off, and the resident memory of the server. Exits with 1 on anything but 200, 429 and 503.
"""

import argparse
import asyncio
import json
import random
import re
import time
import urllib.parse


class Counts:
    def __init__(self):
        self.statuses, self.broken, self.left, self.tokens = {}, [], 0, 0


async def one(url, key, counts, tokens, leaves):
    body = json.dumps({"model": "deepseek-chat", "max_tokens": tokens, "stream": True,
                       "messages": [{"role": "user", "content": "Say " + str(random.randrange(10**6))}]}).encode()
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n")
        writer.write(head.encode() + body)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        counts.statuses[status] = counts.statuses.get(status, 0) + 1
        done, seen = False, 0
        while line := await reader.readline():
            if line.startswith(b"data: "):
                seen += 1
                done = done or b"[DONE]" in line
            if leaves and seen >= 3:
                counts.left += 1
                return
        counts.tokens += seen
        if status == 200 and not done:
            counts.broken.append("a stream ended without [DONE]")
        if status in (429, 503):
            await asyncio.sleep(1 + random.random())
    finally:
        writer.close()


async def client(index, url, args, counts, until):
    await asyncio.sleep(random.random() * min(20, args.seconds / 10))
    turn = 0
    while time.monotonic() < until:
        turn += 1
        try:
            await one(url, args.key, counts, args.tokens, (index + turn) % 10 == 0)
        except OSError as error:
            counts.broken.append(str(error))
            await asyncio.sleep(1)


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://127.0.0.1:PORT")
    parser.add_argument("--key", default="")
    parser.add_argument("--pid", type=int, help="the server's process, for its memory")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    args = parser.parse_args()
    url = urllib.parse.urlsplit(args.url)
    if url.hostname not in ("127.0.0.1", "localhost", "::1"):
        parser.error("only a server on this machine")
    counts, until = Counts(), time.monotonic() + args.seconds
    clients = [asyncio.create_task(client(index, url, args, counts, until)) for index in range(args.clients)]
    memory = []
    while time.monotonic() < until:
        await asyncio.sleep(min(30, args.seconds / 10))
        if args.pid:
            memory.append(resident_mb(args.pid))
        print(f"{counts.statuses} left {counts.left} broken {len(counts.broken)} chunks {counts.tokens} "
              f"memory {memory[-1:]} MB", flush=True)
    await asyncio.gather(*clients)
    print(f"statuses {counts.statuses}, left {counts.left}, broken {len(counts.broken)} {set(counts.broken)}")
    print("memory, MB:", " ".join(f"{m:.0f}" for m in memory))
    raise SystemExit(bool(counts.broken) or any(status not in (200, 429, 503) for status in counts.statuses))


asyncio.run(main())
