"""An S3 server of moto on a free port, whose number it prints: server.py LOG FAIL HANG STALL LAST WANDER

LOG gets a line for each request of the program under test: method, access key, path, condition. Of these
requests the share FAIL is refused, the share HANG is not answered in time, a shard that is uploaded
is taken in only after STALL seconds, after the first LAST of them all are refused, and each takes up
to WANDER seconds to arrive.
"""

import random
import sys
import threading
import time

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

log = open(sys.argv[1], "w", buffering=1)
fail, hang, stall, last, wander = (float(x) for x in sys.argv[2:])
store = DomainDispatcherApplication(create_backend_app)
draws, lock, count = random.Random(1), threading.Lock(), 0


def app(environ, start):
    global count
    if "object_store" not in environ.get("HTTP_USER_AGENT", ""):
        return store(environ, start)
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    key = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
    with lock:
        draw, wait, count = draws.random(), draws.uniform(0, wander), count + 1
        is_over = count > last
        log.write(f"{method} {key} {path} {environ.get('HTTP_IF_NONE_MATCH', '')}\n")
    if is_over or draw < fail:
        start("503 Slow Down", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
    if draw < fail + hang:
        time.sleep(60)
    if method == "PUT" and path.endswith(".parquet"):
        time.sleep(stall)
    time.sleep(wait)
    return store(environ, start)


server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
