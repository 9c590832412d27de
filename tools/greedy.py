#!/usr/bin/env python3
"""Crowds of slow and greedy clients against the real server, with honest clients beside them that tell what they notice.

    tools/greedy.py SERVER LOAD DATA_DIR [SCENARIO...] [--real-time] [--seconds N] [--brief] [--memory-seconds N]

SERVER is the program, LOAD is `just_storage_perf`, which plays the honest clients: 200 `GET` and 100 `PUT` of 4 KiB a
second. DATA_DIR is made and removed. The server runs on the first core with its default limits, everybody else on the
second, where the honest clients go before the crowd: with --real-time always (SCHED_FIFO), so that what they wait for is
the server alone, and otherwise as far as their nice value helps. Needs root, since all of it runs in a network namespace
of its own, Python 3.9 and xfsprogs. Lines for each scenario:

    before and during    p50/p99 of the honest clients in milliseconds, how late one in a hundred of their requests was sent
                         by the client itself, which is a part of that, and how many of their requests failed
    memory               resident MiB of the server: before, at most, and once everybody has gone
    descriptors          the same of what it has open
    CPU                  what the server took meanwhile
    cut                  what the crowd was told, how often, and after how many seconds (least–most); --brief does not
                         wait for that
"""

import argparse
import atexit
import collections
import ctypes
import errno
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

SERVER_CORE, CLIENT_CORE = 0, 1
KEY = "/v1/keys/models/acme/honest"
TRICKLE_SECONDS, TICK_SECONDS = 1.0, 0.05
TCP_REPAIR = 19  # tcp(7) has no name for it in Python: a socket that is closed in this mode tells nobody.
VANISHING = "127.0.99"


def head(method, target, fields=""):
    return f"{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode()


def take_place(core, real_time=False):
    """For those whose pace counts; the crowd has what they leave."""
    os.sched_setaffinity(0, {core})
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    if real_time:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


class Server:
    """The program, with its default limits."""

    def __init__(self, binary, directory, descriptors=20_000, cgroup=None):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)

        def prepare():
            take_place(SERVER_CORE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            if cgroup:
                with open(cgroup + "/cgroup.procs", "w") as procs:
                    procs.write(str(os.getpid()))

        self.directory, self.log = directory, directory + ".log"
        command = [binary, "serve", "--dev", "--data-dir", directory, "--listen-addr", "127.0.0.1:0",
                   "--log-format", "json", "--log-level", "warn"]
        self.process = subprocess.Popen(command, preexec_fn=prepare, stderr=open(self.log, "w"))
        # Also where a run fails in its middle.
        atexit.register(self.process.kill)
        self.address = ("127.0.0.1", self._port())
        self.request(head("PUT", KEY, "Content-Length: 4096\r\n") + os.urandom(4096))

    def _port(self):
        for _ in range(500):
            for line in open(f"/proc/{self.process.pid}/net/tcp"):
                row = line.split()
                if row[3] == "0A":
                    return int(row[1].split(":")[1], 16)
            time.sleep(0.02)
        sys.exit(f"the server does not listen; see {self.log}")

    def request(self, message, seconds=30):
        """The first bytes of the answer, on a connection of its own."""
        with socket.create_connection(self.address, timeout=seconds) as connection:
            connection.sendall(message)
            return connection.recv(65536)

    def cpu_seconds(self):
        row = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(row[11]) + int(row[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) // 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)
        if status != 0:
            print(f"  the server ended with {status}; see {self.log}")


class Honest:
    """Clients that want nothing but their objects."""

    def __init__(self, options, server, seconds):
        url = "http://%s:%d" % server.address
        self.server, self.runs = server, []
        common = ["--url", url, "--connections", "8", "--seconds", str(seconds)]
        for arguments in (["get", "--path", KEY, "--rate", "200"], ["put", "--size", "4096", "--rate", "100"]):
            file = f"{server.directory}.{arguments[0]}.json"
            run = subprocess.Popen([options.load, *arguments, *common, "--json", file], stdout=subprocess.DEVNULL,
                                   preexec_fn=lambda: take_place(CLIENT_CORE, options.real_time))
            self.runs.append((run, file))

    def done(self):
        return all(run.poll() is not None for run, _ in self.runs)

    def report(self):
        words, failed = [], []
        for run, file in self.runs:
            run.wait()
            result = json.load(open(file))
            latency, lag = result["latency_us"], result["lag_us"]
            words.append(f"{latency['p50'] / 1000:.1f}/{latency['p99'] / 1000:.1f} (late {lag['p99'] / 1000:.1f})")
            failed += [f"{error['count']} FAILED: {kind} ({error['first_detail']})"
                       for kind, error in result["errors_by_kind"].items()]
        return ", ".join([f"GET {words[0]} PUT {words[1]}", *failed])


class Client:
    """One member of a crowd."""

    __slots__ = ("socket", "opened", "waits", "answer")


class Crowd:
    """Many clients that all do the same, on one epoll instance."""

    def __init__(self, server, count, first, trickle=b"", reads=True, source="127.0.1"):
        self.server, self.count, self.first = server, count, first
        self.trickle, self.reads, self.source = trickle, reads, source
        self.epoll, self.clients, self.order = select.epoll(), {}, collections.deque()
        self.ends, self.opened, self.next_trickle, self.grows = collections.defaultdict(list), 0, 0.0, True

    def open(self):
        client = Client()
        client.socket = socket.socket()
        client.socket.setblocking(False)
        client.socket.bind((f"{self.source}.{1 + self.opened // 8000 % 250}", 0))
        client.opened, client.answer = time.monotonic(), b""
        client.waits = self.first(self.opened) if callable(self.first) else self.first
        self.opened += 1
        try:
            client.socket.connect(self.server.address)
        except BlockingIOError:
            pass
        self.clients[client.socket.fileno()] = client
        self.order.append(client)
        self.epoll.register(client.socket, select.EPOLLOUT | select.EPOLLRDHUP | (select.EPOLLIN if self.reads else 0))

    def end(self, client, how):
        status = client.answer[9:12].decode() if client.answer.startswith(b"HTTP/1.1 ") else how
        self.ends[status].append(time.monotonic() - client.opened)
        self.clients.pop(client.socket.fileno(), None)
        client.socket.close()
        client.socket = None

    def step(self):
        """Opens whom it lacks, a few at a time, and does what is due for the others."""
        for _ in range(min(200, self.count - len(self.clients)) if self.grows else 0):
            self.open()
        for number, events in self.epoll.poll(TICK_SECONDS):
            client = self.clients.get(number)
            if client:
                self.serve(client, events)
        # Everybody's turn comes once in so many ticks.
        for _ in range(int(len(self.order) * TICK_SECONDS / TRICKLE_SECONDS) if self.trickle else 0):
            client = self.order.popleft()
            if client.socket:
                self.order.append(client)
                self.send(client, self.trickle)

    def send(self, client, data):
        try:
            return client.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.ENOTCONN and client.socket:
                self.end(client, "reset")
            return 0

    def serve(self, client, events):
        if events & select.EPOLLOUT:
            client.waits = client.waits[self.send(client, client.waits):] if client.waits else b""
            if client.socket and not client.waits:
                self.epoll.modify(client.socket, select.EPOLLRDHUP | (select.EPOLLIN if self.reads else 0))
        if client.socket and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            if not self.reads:
                return self.end(client, "reset" if events & select.EPOLLERR else "closed")
            try:
                data = client.socket.recv(4096)
                client.answer = client.answer or data
                if not data:
                    self.end(client, "closed")
            except BlockingIOError:
                pass
            except OSError:
                self.end(client, "reset")

    def leave(self):
        for client in list(self.clients.values()):
            client.socket.close()
        self.clients.clear()

    def vanish(self):
        """Nobody answers any more, and nobody says goodbye, as if all of their machines had lost power."""
        subprocess.run(["ip", "route", "add", "blackhole", self.source + ".0/24", "table", "local"], check=True)
        for client in self.clients.values():
            client.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        self.leave()

    def told(self):
        return ", ".join(f"{status} × {len(times)} ({min(times):.0f}–{max(times):.0f} s)"
                         for status, times in sorted(self.ends.items())) or "nobody"


class Watch:
    """What the server takes, at most."""

    def __init__(self, server):
        self.server, self.next, self.cpu_before = server, 0.0, server.cpu_seconds()
        self.before = self.most = (server.resident_mib(), server.descriptors())

    def look(self):
        if time.monotonic() > self.next:
            self.next = time.monotonic() + 0.5
            now = self.server.resident_mib(), self.server.descriptors()
            self.most = tuple(map(max, self.most, now))

    def report(self):
        after = self.server.resident_mib(), self.server.descriptors()
        memory, descriptors = zip(self.before, self.most, after)
        return (f"memory {'/'.join(map(str, memory))} MiB, "
                f"descriptors {'/'.join(map(str, descriptors))}, "
                f"CPU {self.server.cpu_seconds() - self.cpu_before:.1f} s")


def run(name, options, make_crowd, patience, during=None, vanishes=False):
    server = Server(options.server, options.data + "/store")
    warm_up = Honest(options, server, 3)
    warm_up.report()
    before = Honest(options, server, options.seconds).report()
    watch, crowd = Watch(server), make_crowd(server)
    honest = Honest(options, server, options.seconds)
    vanished, kernel_most = False, 0
    while not honest.done():
        crowd.step()
        watch.look()
        kernel_most = max(kernel_most, kernel_mib())
        if during:
            during(crowd)
        if vanishes and len(crowd.clients) == crowd.count and not vanished:
            time.sleep(1)
            crowd.vanish()
            vanished, crowd.grows = True, False
    crowd.grows, deadline = False, time.monotonic() + (0 if options.brief else patience)
    while time.monotonic() < deadline and (crowd.clients or server.descriptors() > watch.before[1] + 8):
        crowd.step()
        watch.look()
        if during:
            during(crowd)
    gone = "" if options.brief else f"; all gone {time.monotonic() - deadline + patience:.0f} s later"
    print(f"{name}\n  before   {before}\n  during   {honest.report()}\n  {watch.report()}, kernel at most {kernel_most} MiB")
    print(f"  {crowd.opened} opened; cut: {crowd.told()}; {len(crowd.clients)} left{gone}", flush=True)
    crowd.leave()
    server.stop()


def kernel_mib():
    """What sockets of the whole machine hold, as far as the kernel says."""
    for line in open("/proc/net/sockstat"):
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * 4 // 1024
    return 0


def heads(options):
    run("5,000 heads at a byte a second", options,
        lambda server: Crowd(server, 5000, b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"x"), 20)


def bodies(options):
    first = head("PUT", "/v1/keys/models/acme/slow", "Content-Length: 1000000\r\n")
    run("5,000 bodies at a byte a second", options, lambda server: Crowd(server, 5000, first, b"x"), 50)


def idle(options):
    run("15,000 idle connections", options, lambda server: Crowd(server, 15_000, b""), 90)


def vanished(options):
    half_body = head("PUT", "/v1/keys/models/acme/half", "Content-Length: 1000000\r\n") + bytes(100_000)
    firsts = [b"", b"GET / HTTP/1.1\r\nHo", half_body, head("GET", KEY) * 8]
    run("3,000 clients that vanish", options,
        lambda server: Crowd(server, 3000, lambda n: firsts[n % 4], reads=False, source=VANISHING), 100, vanishes=True)


def resets(options):
    first = head("PUT", "/v1/keys/models/acme/reset", "Content-Length: 1000000\r\n") + bytes(100_000)

    def reset(crowd):
        for client in list(crowd.clients.values()):
            if not client.waits:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                crowd.end(client, "reset by itself")

    run("100 at a time that reset in the middle of a body", options, lambda server: Crowd(server, 100, first), 10, reset)


def unread(options):
    def crowd(server):
        large = head("PUT", "/v1/keys/models/acme/large", f"Content-Length: {64 << 20}\r\n") + bytes(64 << 20)
        server.request(large)
        return Crowd(server, 300, head("GET", "/v1/keys/models/acme/large"), reads=False)

    run("300 downloads of 64 MiB that nobody reads", options, crowd, 40)


def pipelined(options):
    run("2,000 times 1,000 small GETs that nobody reads", options,
        lambda server: Crowd(server, 2000, head("GET", KEY) * 1000, reads=False), 40)


def burst(options):
    state = {"round": 0}

    def come_and_go(crowd):
        if len(crowd.clients) == crowd.count:
            state["round"] += 1
            for client in list(crowd.clients.values()):
                crowd.end(client, "closed by itself")

    run("10,000 opened and closed at once, again and again", options,
        lambda server: Crowd(server, 10_000, b""), 20, come_and_go)


def descriptors(options):
    server, crowd = Server(options.server, options.data + "/store", descriptors=64), None
    print("64 descriptors")
    for _ in range(3):
        crowd = [socket.create_connection(server.address) for _ in range(500)]
        served = lambda seconds: server.request(head("GET", "/health"), seconds).startswith(b"HTTP/1.1 200")
        try:
            refused = not served(1)
        except OSError:
            refused = True
        for connection in crowd:
            connection.close()
        started = time.monotonic()
        while True:
            try:
                if served(0.2):
                    break
            except OSError:
                pass
        print(f"  full: {refused}; served again {time.monotonic() - started:.2f} s after they went", flush=True)
    server.stop()


class Void:
    """A file system with room for everything: what has been written to files without a name is taken away again, a
    little behind the writer."""

    MARGIN_BYTES = 16 << 20
    PUNCH_HOLE_KEEP_SIZE = 3  # fallocate(2)

    def __init__(self, path):
        self.path, self.image, self.allocate = path, path + ".img", ctypes.CDLL(None, use_errno=True).fallocate
        self.allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        with open(self.image, "w") as image:
            image.truncate(700 << 30)
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mkfs.xfs", "-q", "-f", self.image], check=True)
        subprocess.run(["mount", "-o", "loop,discard", self.image, path], check=True)

    def empty(self, process):
        directory, device = f"/proc/{process.pid}/fd", os.stat(self.path).st_dev
        for number in os.listdir(directory):
            try:
                status = os.stat(f"{directory}/{number}")
                if status.st_dev == device and status.st_nlink == 0:
                    file = os.open(f"{directory}/{number}", os.O_RDWR)
                    self.punch(file)
                    os.close(file)
            except OSError:
                pass  # It has been closed meanwhile, or nothing has been written.

    def punch(self, file):
        start = os.lseek(file, 0, os.SEEK_DATA)
        length = os.lseek(file, start, os.SEEK_HOLE) - self.MARGIN_BYTES - start
        if length > 0:
            self.allocate(file, self.PUNCH_HOLE_KEEP_SIZE, start, length)

    def remove(self):
        subprocess.run(["umount", self.path], check=True)
        os.remove(self.image)
        os.rmdir(self.path)


def memory(options):
    cgroup = f"/sys/fs/cgroup/memory/greedy-{os.getpid()}"
    os.makedirs(cgroup)
    value = lambda name: open(f"{cgroup}/memory.{name}").read()
    with open(cgroup + "/memory.limit_in_bytes", "w") as limit:
        limit.write(str(256 << 20))
    void = Void(options.data)
    server = Server(options.server, options.data + "/store", cgroup=cgroup)
    piece, connections = random.randbytes(1 << 20), {}
    epoll = select.epoll()
    for number in range(64):
        connection = socket.create_connection(server.address)
        connection.sendall(head("PUT", f"/v1/keys/models/acme/{number}", f"Content-Length: {10 << 30}\r\n"))
        connection.setblocking(False)
        connections[connection.fileno()] = [connection, 10 << 30]
        epoll.register(connection, select.EPOLLOUT | select.EPOLLIN)
    started, slowest, looks, answers = time.monotonic(), 0.0, 0, []
    while len(answers) < 64 and time.monotonic() < started + options.memory_seconds:
        for number, events in epoll.poll(1):
            entry = connections[number]
            if events & select.EPOLLIN:
                answers.append(entry[0].recv(4096)[9:12].decode() or "closed")
                epoll.unregister(number)
                continue
            try:
                entry[1] -= entry[0].send(piece[:entry[1]])
            except BlockingIOError:
                pass
            if entry[1] == 0:
                epoll.modify(number, select.EPOLLIN)
        if time.monotonic() > started + looks:
            looks += 1
            begin = time.monotonic()
            assert server.request(head("GET", KEY)).startswith(b"HTTP/1.1 200")
            slowest = max(slowest, time.monotonic() - begin)
            void.empty(server.process)
            if looks % 30 == 0:
                print(f"  {looks} s: {value('usage_in_bytes').strip()} bytes in use, {server.resident_mib()} MiB resident",
                      flush=True)
    seconds, sent = time.monotonic() - started, [(10 << 30) - left >> 20 for _, left in connections.values()]
    stat = dict(line.split() for line in value("stat").splitlines())
    mib = lambda text: int(text) >> 20
    print(f"64 uploads of 10 GiB in 256 MiB of memory: {sum(sent) >> 10} GiB sent in {seconds:.0f} s, "
          f"{min(sent)} to {max(sent)} MiB of each; answers: {dict(collections.Counter(answers)) or 'none yet'}")
    print(f"  at most {mib(value('max_usage_in_bytes'))} MiB, of which now {mib(stat['cache'])} MiB page cache and "
          f"{mib(stat['rss'])} MiB of the process; the limit was met {value('failcnt').strip()} times; "
          f"{value('oom_control').split()[-1]} killed; slowest GET beside them {slowest * 1000:.0f} ms; "
          f"runs: {server.process.poll() is None}", flush=True)
    for connection, _ in connections.values():
        connection.close()
    server.stop()
    os.rmdir(cgroup)
    void.remove()


SCENARIOS = [heads, bodies, idle, vanished, resets, unread, pipelined, burst, descriptors, memory]


def main():
    if os.environ.get("GREEDY_NAMESPACE") is None:
        os.environ["GREEDY_NAMESPACE"] = "own"
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    names = {scenario.__name__: scenario for scenario in SCENARIOS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("load")
    parser.add_argument("data")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(names))
    parser.add_argument("--real-time", action="store_true", help="honest clients always go before the crowd")
    parser.add_argument("--seconds", type=int, default=15, help="of each measurement")
    parser.add_argument("--brief", action="store_true", help="leave once measured, and wait for no cuts")
    parser.add_argument("--memory-seconds", type=int, default=300, help="of uploads in little memory, at most")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(names):
        parser.error(f"there is no {', '.join(unknown)}")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, {CLIENT_CORE})
    os.nice(5)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    for name in options.scenarios or names:
        names[name](options)


if __name__ == "__main__":
    main()
