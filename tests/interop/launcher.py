"""What the launchers of the Python providers share: a free port, a web server, and the orders of a test."""

import json
import os
import socket
import socketserver
import sys
import tempfile
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


class Place:
    """A folder, a port and the client, all of one test."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.client_id = os.environ["CLIENT_ID"]
        self.client_secret = os.environ["CLIENT_SECRET"]
        self.redirect_uri = os.environ["REDIRECT_URI"]
        self._app = None
        self._server = make_server("127.0.0.1", 0, self._call, _Server, _Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _call(self, environ, start_response):
        return self._app(environ, start_response)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def serve(self, app, issuer, revoke):
        """Serves until standard input ends; `revoke` is told whose grants are to go, and says how many went."""
        self._app = app
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        obey(issuer, revoke)
        self.folder.cleanup()
        # Nothing is kept, so nothing has to be closed in order.
        os._exit(0)


def free_port():
    """For servers that cannot be given a socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def obey(issuer, revoke):
    """Says that the provider answers, and does what the lines of standard input say until it ends."""
    say({"issuer": issuer})
    for line in sys.stdin:
        try:
            say({"revoked": revoke(line.split()[1])})
        except Exception as error:  # The test shows it.
            say({"error": f"{type(error).__name__}: {error}"})


def say(answer):
    print(json.dumps(answer), flush=True)
