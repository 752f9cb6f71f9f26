"""A server on this machine that speaks the protocol of OpenAI's chat completions, or fails to."""

import base64
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

from PIL import Image

COLOURS = {
    "good": (250, 0, 0),
    "late": (0, 250, 0),
    "nonsense": (0, 0, 250),
    "refused": (250, 250, 0),
    "filtered": (250, 0, 250),
    "cut": (0, 250, 250),
    "broken": (250, 250, 250),
    "garbage": (0, 0, 0),
    "failing": (125, 0, 0),
    "city": (0, 125, 0),
    "country": (0, 0, 125),
    "busy": (125, 125, 0),
    "forbidden": (125, 0, 125),
}
"""Photos of one colour, each the name of how the server answers them."""

GOOD = {
    "clues": ["an iron tower"],
    "constraints": ["not the Blackpool one"],
    "hypotheses": [
        {"city": "Paris", "country": "France", "lat": 48.858, "lon": 2.294, "radius_km": 2}
        | {"weight": 0.8},
        {"city": "Tokyo", "country": "Japan", "lat": 35.659, "lon": 139.745, "weight": 0.2},
    ],
    "confidence": 0.9,
}


def photo(name, size=(48, 32)):
    return Image.new("RGB", size, COLOURS[name])


def name_of(colour):
    return min(
        COLOURS, key=lambda n: sum(abs(a - b) for a, b in zip(COLOURS[n], colour, strict=True))
    )


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        picture, text = (part for part in asked["messages"][-1]["content"])
        jpeg = base64.b64decode(picture["image_url"]["url"].partition("base64,")[2])
        image = Image.open(BytesIO(jpeg))
        name = name_of(image.convert("RGB").getpixel((1, 1)))
        self.server.requests.append((name, asked, self.headers["Authorization"], dict(image.info)))
        self.server.tries[name] += 1
        self.answer(name, text["text"])

    def answer(self, name, text):
        if "Which clues" in text:
            return self.complete(json.dumps({"clues": [f"all is {name}"]}))
        if name == "late":
            self.server.stopped.wait(10)
            return self.close()
        if name == "broken":  # half of the reply, then nothing
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            return self.close()
        if name == "garbage":
            return self.send(200, b"<html>gateway</html>")
        if name == "failing" or (name == "busy" and self.server.tries[name] == 1):
            error = {"error": {"message": "overloaded", "code": "overloaded"}}
            return self.send(500 if name == "failing" else 429, json.dumps(error).encode())
        if name in ("filtered", "forbidden"):
            status = 400 if name == "filtered" else 401
            error = {"error": {"message": name, "code": "content_policy_violation"}}
            return self.send(status, json.dumps(error).encode())
        return self.complete(**TEXTS[name])

    def complete(self, content, finish_reason="stop"):
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        about = {"id": "1", "object": "chat.completion", "created": 1, "model": "any"}
        self.send(200, json.dumps({**about, "choices": [choice], "usage": usage}).encode())

    def send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body)

    def close(self):
        self.close_connection = True


TEXTS = {
    "good": {"content": f"Let me think.\n```json\n{json.dumps(GOOD)}\n```"},
    "busy": {"content": json.dumps(GOOD)},
    "nonsense": {"content": "The the the {lat: north} 42"},
    "refused": {"content": "I\u2019m sorry, but I can\u2019t help with identifying this place."},
    "cut": {"content": '{"clues": ["a tower", "a ri', "finish_reason": "length"},
    "city": {"content": '{"hypotheses": [{"city": "Kyoto"}], "confidence": "80 %"}'},
    "country": {"content": '{"country": "Chile", "confidence": 0.7}'},
}


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """Say nothing of those who no longer wait for an answer."""


@contextmanager
def serving():
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.requests, server.tries = [], Counter()
    server.stopped = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
