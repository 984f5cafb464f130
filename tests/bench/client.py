"""A client that takes as little as it can of the cores whose use by others it measures."""

import bisect
import itertools
import json
import socket
import time
from urllib.parse import urlsplit


def ask(url, messages, tokens_max):
    """One answer: its text, after how many seconds each of its tokens came, and how many tokens
    the prompt has.

    Nothing is read out of the answer before its end: that took 0.1 ms a token of a core which
    the next token waited for.
    """
    body = {"messages": messages, "max_tokens": tokens_max, "temperature": 0}
    body |= {"stream": True, "logprobs": True, "stream_options": {"include_usage": True}}
    body = json.dumps(body).encode()
    address = urlsplit(url)
    # HTTP 1.0: the answer ends with the connection and is not cut into chunks.
    head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: {address.netloc}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    pieces, times = [], []
    with socket.create_connection((address.hostname, address.port)) as connection:
        begun = time.monotonic()
        connection.sendall(head.encode() + body)
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
            times.append(time.monotonic() - begun)
    whole = b"".join(pieces)
    status = whole.split(b"\r\n", 1)[0]
    assert status.split()[1:2] == [b"200"], whole
    ends = list(itertools.accumulate(map(len, pieces)))
    text, came, prompt, at = "", [], 0, 0
    for line in whole.splitlines(keepends=True):
        at += len(line)
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[len(b"data: ") :])
        assert "error" not in event, event
        if event["choices"] and event["choices"][0].get("logprobs"):
            came.append(times[bisect.bisect_left(ends, at)])
            text += event["choices"][0]["delta"].get("content") or ""
        prompt = (event.get("usage") or {}).get("prompt_tokens", prompt)
    return text, came, prompt
