#!/usr/bin/env python3
"""The figures under "Listing by key" in docs/PERFORMANCE.md: pages out of 10,000 keys under 100 prefixes against pages out
of 1,000,000 keys under 10,000, on SQLite and on PostgreSQL, in turns; a key with 10,000 versions; and what it takes to read
all keys instead. Needs sqlite3 and PostgreSQL 15 (apt-get install sqlite3 postgresql-15). Everything it starts it ends; its
data is in a temporary directory.

    perf/listing_by_key.py PROGRAM [REQUESTS]

PROGRAM is a just_storage. That of a debug build tells an upper bound: its SQLite is optimised, and all else is not.
"""

import http.client
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

POSTGRES = "/usr/lib/postgresql/15/bin/"
SIZES = (10_000, 1_000_000)
KEYS_OF_A_PREFIX = 100
VERSIONS = 10_000
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
COLUMNS = """sequence, id, namespace, tenant_id, key, status, storage_class, content_hash, size_bytes, content_type,
    metadata, writer, created_at, updated_at"""
# Commits come in no order of keys; every tenth object is cold.
ROW = """'models', {tenant}, 'runs-' || {prefix} || '/' || {number}, 1, {cold}, {hash}, 4096, 'application/octet-stream',
    '{{"framework":"torch"}}', 1, 1764000000000, 1764000000000"""
SCOPE = "namespace=models&tenant_id=acme"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Postgres:
    """A PostgreSQL of this run's own."""

    def __init__(self, directory):
        self.port = free_port()
        self.user = []
        directory.mkdir()
        # PostgreSQL refuses to work as root.
        if os.geteuid() == 0:
            self.user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
            shutil.chown(directory, "postgres", "postgres")
        data = str(directory / "data")
        self.run("initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale", "C", "-D", data)
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={directory}", "shared_buffers=1GB")
        command = [*self.user, POSTGRES + "postgres", "-D", data, "-p", str(self.port)]
        command += [word for setting in settings for word in ("-c", setting)]
        self.process = subprocess.Popen(command, stderr=open(directory / "log", "w"))
        while subprocess.run([POSTGRES + "pg_isready", "-q", *self.address()]).returncode:
            time.sleep(0.1)

    def run(self, program, *arguments):
        subprocess.run([*self.user, POSTGRES + program, *arguments], check=True, stdout=subprocess.DEVNULL)

    def address(self):
        return "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"

    def psql(self, database, text):
        command = ["psql", "-XqtA", "-v", "ON_ERROR_STOP=1", *self.address(), "-d", database, "-c", text]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def pids(self):
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        return children.stdout.split()


class Server:
    def __init__(self, program, directory, size, postgres):
        self.directory, self.size, self.postgres = directory, size, postgres
        self.url = f"sqlite://{directory}/metadata.db"
        if postgres:
            postgres.psql("postgres", f"CREATE DATABASE keys_{size}")
            self.url = f"postgres://postgres@127.0.0.1:{postgres.port}/keys_{size}"
        directory.mkdir()
        # The first start makes the schema.
        self.start(program)
        self.stop()
        for tenant, count in (("acme", size), ("versions", VERSIONS * 10)):
            self.fill(tenant, count)
        if postgres:
            postgres.psql(f"keys_{size}", "SELECT setval('objects_sequence', 10000000)")
            postgres.psql(f"keys_{size}", "VACUUM ANALYZE")
        self.start(program)
        self.settle()

    def settle(self):
        """Waits until the work of a start is over: it goes through all keys once."""
        before = -1
        while before != self.ticks():
            before = self.ticks()
            time.sleep(1)

    def start(self, program):
        self.port = free_port()
        command = [program, "serve", "--dev", "--data-dir", str(self.directory), "--database-url", self.url]
        command += ["--listen-addr", f"127.0.0.1:{self.port}", "--node-name", str(self.port), "--log-level", "error"]
        self.process = subprocess.Popen(command, stderr=open(self.directory / "log", "a"))
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
                self.connection.request("GET", "/health/ready")
                if self.connection.getresponse().read():
                    return
            except ConnectionRefusedError:
                time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def fill(self, tenant, count):
        first = 0 if tenant == "acme" else 5_000_000
        prefixes = count // KEYS_OF_A_PREFIX if tenant == "acme" else 10
        width = len(str(prefixes - 1))
        if self.postgres:
            row = ROW.format(tenant=f"'{tenant}'", prefix=f"lpad((n % {prefixes})::text, {width}, '0')",
                             number=f"lpad((n / {prefixes})::text, 2, '0')" if tenant == "acme" else "'k'",
                             cold="(n % 10 = 0)::int", hash="sha256(int8send(n))")
            self.sql(f"""INSERT INTO objects ({COLUMNS}) SELECT n, lpad(to_hex(n), 32, '0')::uuid, {row}
                         FROM generate_series({first + 1}::bigint, {first + count}) AS n""")
        else:
            row = ROW.format(tenant=f"'{tenant}'", prefix=f"printf('%0{width}d', n % {prefixes})",
                             number=f"printf('%02d', n / {prefixes})" if tenant == "acme" else "'k'",
                             cold="n % 10 = 0", hash="randomblob(32)")
            self.sql(f"""PRAGMA cache_size = -1000000; PRAGMA synchronous = OFF;
                         WITH RECURSIVE numbers (n) AS (
                             SELECT {first + 1} UNION ALL SELECT n + 1 FROM numbers WHERE n < {first + count})
                         INSERT INTO objects ({COLUMNS})
                         SELECT n, CAST(printf('%016d', n) AS BLOB), {row} FROM numbers""")

    def sql(self, text):
        if self.postgres:
            self.postgres.psql(f"keys_{self.size}", text)
        else:
            command = ["sqlite3", str(self.directory / "metadata.db"), text]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def get(self, path):
        try:
            self.connection.request("GET", path)
            response = self.connection.getresponse()
        except http.client.RemoteDisconnected:
            # It was idle for too long while others had their turn; the next request opens another one.
            self.connection.request("GET", path)
            response = self.connection.getresponse()
        body = response.read()
        assert response.status == 200, (path, response.status, body)
        return body

    def ticks(self):
        """The CPU time so far of the server, and of all of PostgreSQL where it is the database (proc(5))."""
        total = 0
        for pid in [self.process.pid, *(self.postgres.pids() if self.postgres else [])]:
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
            except FileNotFoundError:
                pass
        return total

    def middle(self, query, pages):
        """The query behind so many of its pages."""
        cursor = ""
        for _ in range(pages):
            page = json.loads(self.get(f"/v1/objects?{query}{cursor}"))
            cursor = "&cursor=" + page["next_cursor"]
        return f"/v1/objects?{query}{cursor}"

    def cases(self):
        prefixes = self.size // KEYS_OF_A_PREFIX
        one = f"runs-{str(prefixes // 2).zfill(len(str(prefixes - 1)))}/"
        half = self.middle(f"{SCOPE}&delimiter=/&limit=50", prefixes // 100)
        yield "the first 50 prefixes", f"/v1/objects?{SCOPE}&delimiter=/&limit=50"
        yield "50 prefixes in the middle, by cursor", half
        yield "cold ones, a thousand hot keys between", f"/v1/objects?{SCOPE}&delimiter=/&limit=50&storage_class=cold"
        yield "all 100 keys of one prefix", f"/v1/objects?{SCOPE}&prefix={one}&delimiter=/"
        yield "10 keys that are versions of 10,000 each", "/v1/objects?namespace=models&tenant_id=versions&prefix="
        yield "100 versions of such a key", "/v1/keys/models/versions/runs-5/k?versions"
        yield "no page: one object's info", f"/v1/objects/{self.some_id()}/info"

    def some_id(self):
        return json.loads(self.get(f"/v1/objects?{SCOPE}&limit=1"))["objects"][0]["id"]

    def measure(self, path, requests):
        """p50 and CPU time of a request, in milliseconds."""
        before, times = self.ticks(), []
        for _ in range(requests):
            begun = time.perf_counter()
            self.get(path)
            times.append((time.perf_counter() - begun) * 1000)
        return statistics.median(times), (self.ticks() - before) * TICK_MS / requests

    def whole_level(self):
        """Every prefix, 1,000 at a time: how many, in how many seconds, and of CPU time."""
        before, begun, cursor, count = self.ticks(), time.perf_counter(), "", 0
        while True:
            page = json.loads(self.get(f"/v1/objects?{SCOPE}&delimiter=/&limit=1000{cursor}"))
            count += len(page["common_prefixes"])
            if page["next_cursor"] is None:
                return count, time.perf_counter() - begun, (self.ticks() - before) * TICK_MS / 1000
            cursor = "&cursor=" + page["next_cursor"]

    def scan(self):
        """Reading every key instead, in the database alone: seconds, the client's start in them."""
        position = "strpos(key, '/')" if self.postgres else "instr(key, '/')"
        begun = time.perf_counter()
        self.sql(f"""SELECT count(DISTINCT substr(key, 1, {position})) FROM objects
                     WHERE namespace = 'models' AND tenant_id = 'acme' AND status = 1 AND key IS NOT NULL""")
        return time.perf_counter() - begun


def main():
    program, requests = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    work = pathlib.Path(tempfile.mkdtemp(prefix="just_storage_keys."))
    work.chmod(0o755)
    servers, postgres = [], None
    try:
        postgres = Postgres(work / "postgres")
        for name, database in (("sqlite", None), ("postgres", postgres)):
            pair = [Server(program, work / f"{name}-{size}", size, database) for size in SIZES]
            servers += pair
            for (case, small), (_, large) in zip(*(server.cases() for server in pair)):
                rounds = [[], []]
                for number in range(5):
                    turn = zip(pair, (small, large), rounds)
                    for server, path, measured in list(turn)[:: 1 if number % 2 else -1]:
                        measured.append(server.measure(path, requests))
                (p50, cpu), (p50_large, cpu_large) = [
                    [statistics.median(column) for column in zip(*measured)] for measured in rounds
                ]
                told = f"p50 {p50:7.2f} {p50_large:7.2f} ms   CPU {cpu:6.2f} {cpu_large:6.2f} ms"
                print(f"{name:9} {case:42} {told}", flush=True)
            for server in pair:
                count, seconds, cpu = server.whole_level()
                scan = min(server.scan() for _ in range(3))
                told = f"{seconds:.2f} s, {cpu:.2f} s of CPU; a scan {scan:.2f} s"
                print(f"{name:9} all {count} prefixes of {server.size} keys: {told}", flush=True)
            for server in pair:
                server.stop()
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.stop()
        if postgres:
            postgres.process.terminate()
            postgres.process.wait()
        shutil.rmtree(work)


main()
