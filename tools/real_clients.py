#!/usr/bin/env python3
"""Holds clients that others wrote to a real server: ranges, resumed and parallel downloads, uploads of unknown length.

    tools/real_clients.py BINARY DATA_DIR

Starts `BINARY serve --dev` itself, on a free port and in DATA_DIR, and ends it. Runs what is installed and says what is
not: curl, wget, aria2c, chromium, redbot; and of Python requests, urllib3, httpx, fsspec (with aiohttp), pandas with
pyarrow, safetensors. Exit code 0 means that no client that ran got anything wrong.
"""

import email
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

from chromium_downloads import BrokenWay, Chromium, wait_for
from real_input import Server

SIZE = 40_000_000
BYTES = b"".join(hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(SIZE // 32))
SCOPE = "/v1/keys/artifacts/real-clients/"
CHECKS = []


def check(*needs):
    """A function that holds one client to the server, if all that it needs is there."""
    def add(function):
        CHECKS.append((function, needs))
        return function
    return add


def version_of(name):
    """A module or program with its version, or `None` if it is not installed."""
    if importlib.util.find_spec(name):
        return f"{name} {importlib.metadata.version(name)}"
    if not shutil.which(name):
        return None
    return f"{name} " + re.search(r"[0-9.]+[0-9]", run(name, "--version", text=True))[0]


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, timeout=120, **options).stdout


def put(url, body):
    run("curl", "-sSf", "-T", "-", url, input=body)


def bytes_sent(url):
    """How many bytes of bodies the server has sent for this namespace."""
    base = url[:url.index("/v1/")]
    lines = run("curl", "-sSf", base + "/metrics", text=True).split("\n")
    name = 'activestorage_response_body_bytes_total{namespace="artifacts"}'
    return sum(int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def parts_of(content_type, body):
    """A multipart body as the mail reader of the standard library takes it apart."""
    message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    assert message.is_multipart() and not message.defects, message.defects
    return [(part["Content-Range"], part.get_payload(decode=True)) for part in message.get_payload()]


TWO_RANGES = [(f"bytes 0-1/{SIZE}", BYTES[:2]), (f"bytes 5-6/{SIZE}", BYTES[5:7])]


@check("curl")
def curl_reads_one_range_and_several(url):
    assert run("curl", "-sSf", "-r", "5-99", url) == BYTES[5:100]
    assert run("curl", "-sSf", "-r", "-7", url) == BYTES[-7:]
    head, body = run("curl", "-sSf", "-i", "-r", "0-1,5-6", url).split(b"\r\n\r\n", 1)
    content_type = next(line for line in head.decode().split("\r\n") if line.startswith("Content-Type: "))
    assert parts_of(content_type.split(": ", 1)[1], body) == TWO_RANGES


@check("curl")
def curl_resumes_and_takes_the_name_it_is_given(url):
    with open("curl", "wb") as file:
        file.write(BYTES[:SIZE // 3])
    run("curl", "-sSf", "-C", "-", "-o", "curl", url)
    assert open("curl", "rb").read() == BYTES
    run("curl", "-sSf", "-OJ", url + "?download=na%C3%AFve%20name.bin")
    assert os.path.getsize("na_ve name.bin") == SIZE


@check("curl")
def curl_uploads_from_a_pipe(url):
    command = f"head -c 3000000 /dev/zero | curl -sSf -T - {url}-zeros"
    assert json.loads(run("sh", "-c", command))["size_bytes"] == 3_000_000


@check("wget")
def wget_resumes_and_takes_the_name_it_is_given(url):
    with open("wget", "wb") as file:
        file.write(BYTES[:SIZE // 3])
    run("wget", "-q", "-c", "-O", "wget", url)
    assert open("wget", "rb").read() == BYTES
    run("wget", "-q", "--content-disposition", url + "?download=from%20wget.bin")
    assert open("from wget.bin", "rb").read() == BYTES


@check("aria2c")
def aria2_downloads_by_sixteen_connections(url):
    run("aria2c", "-q", "-x16", "-s16", "-k1M", "-o", "aria2", url)
    assert open("aria2", "rb").read() == BYTES


def see_it_whole(name):
    """Waits until a file is there under the name that it is given in the end."""
    wait_for(name, lambda: os.path.exists(name) and os.path.getsize(name) == SIZE)
    assert open(name, "rb").read() == BYTES


def assert_goes_on(way):
    """That one request more was enough, for what was missing of the same version."""
    (first, answer), (second, rest) = way.exchanges
    assert "range" not in first and " 200 " in answer[""], (first, answer)
    at = int(re.fullmatch(r"bytes=([0-9]+)-", second["range"])[1])
    assert 0 < at <= way.bytes_max and second["if-range"] == answer["etag"], second
    assert " 206 " in rest[""] and rest["content-range"] == f"bytes {at}-{SIZE - 1}/{SIZE}", rest


@check("chromium")
def chromium_goes_on_by_itself_where_an_answer_ended(url):
    with BrokenWay(url, SIZE // 2, "end") as way, Chromium("profile", os.getcwd()) as browser:
        browser.visit(way.url + "?download=ended.bin")
        see_it_whole("ended.bin")
    assert_goes_on(way)


@check("chromium")
def chromium_goes_on_when_it_is_told_to_after_a_reset(url):
    with BrokenWay(url, SIZE // 2, "reset") as way, Chromium("profile", os.getcwd()) as browser:
        browser.visit(way.url + "?download=na%C3%AFve%20reset.bin")
        browser.resume()
        see_it_whole("naïve reset.bin")
    assert_goes_on(way)


@check("requests")
def requests_reads_ranges_and_sends_a_generator(url):
    import requests
    with requests.Session() as session:
        answer = session.get(url, headers={"Range": "bytes=0-1,5-6"})
        assert answer.status_code == 206
        assert parts_of(answer.headers["Content-Type"], answer.content) == TWO_RANGES
        assert session.get(url, headers={"Range": f"bytes={SIZE - 9}-"}).content == BYTES[-9:]
        tag = session.head(url).headers["ETag"]
        assert session.get(url, headers={"If-None-Match": tag}).status_code == 304
        pieces = (BYTES[at:at + 77_777] for at in range(0, 2_000_000, 77_777))
        sent = session.put(url + "-generated", data=pieces)
        assert sent.status_code in (200, 201), sent.text
        again = session.get(url + "-generated").content
        assert hashlib.sha256(again).hexdigest() == sent.json()["content_hash"]


@check("urllib3")
def urllib3_streams_a_range(url):
    import urllib3
    pool = urllib3.PoolManager()
    answer = pool.request("GET", url, headers={"Range": "bytes=1000-20000999"}, preload_content=False)
    assert b"".join(answer.stream(1 << 20)) == BYTES[1000:20_001_000]


@check("httpx")
def httpx_streams_a_range_and_sends_a_generator(url):
    import httpx
    with httpx.Client() as client:
        with client.stream("GET", url, headers={"Range": "bytes=1000-20000999"}) as answer:
            assert b"".join(answer.iter_bytes()) == BYTES[1000:20_001_000]
        answer = client.get(url, headers={"Range": "bytes=0-1,5-6"})
        assert parts_of(answer.headers["Content-Type"], answer.content) == TWO_RANGES
        pieces = (BYTES[at:at + 5000] for at in range(0, 1_000_000, 5000))
        assert client.put(url + "-by-httpx", content=pieces).status_code in (200, 201)
        assert client.get(url + "-by-httpx").content == BYTES[:1_000_000]


@check("fsspec", "aiohttp")
def fsspec_seeks_in_a_file(url):
    import fsspec
    files = fsspec.filesystem("http")
    assert files.info(url)["size"] == SIZE
    with files.open(url, block_size=1 << 16) as file:
        for at in (0, 33_333_333, SIZE - 10, 12_345):
            file.seek(at)
            assert file.read(10) == BYTES[at:at + 10]
    assert files.cat_ranges([url] * 3, [0, 5, SIZE - 3], [2, 7, SIZE]) == [BYTES[:2], BYTES[5:7], BYTES[-3:]]


@check("pandas", "pyarrow", "fsspec", "aiohttp")
def pandas_reads_one_column_of_a_parquet_file(url):
    import io
    import fsspec
    import numpy
    import pandas
    numbers = numpy.random.default_rng(1)
    table = pandas.DataFrame({f"c{column}": numbers.random(400_000) for column in range(12)})
    parquet = io.BytesIO()
    table.to_parquet(parquet, engine="pyarrow")
    put(url + ".parquet", parquet.getvalue())
    before = bytes_sent(url)
    with fsspec.open(url + ".parquet", block_size=1 << 16) as file:
        column = pandas.read_parquet(file, engine="pyarrow", columns=["c7"])
    sent = bytes_sent(url) - before
    assert (column["c7"] == table["c7"]).all()
    assert sent < len(parquet.getvalue()) / 4, f"{sent} of {len(parquet.getvalue())} bytes were fetched for it"


@check("safetensors", "fsspec", "aiohttp")
def safetensors_are_read_tensor_by_tensor(url):
    import fsspec
    import numpy
    from safetensors.numpy import save
    tensors = {f"layer{number}": numpy.full((500, 1000), number, dtype=numpy.float32) for number in range(8)}
    model = save(tensors)
    put(url + ".safetensors", model)
    before = bytes_sent(url)
    with fsspec.open(url + ".safetensors", block_size=1 << 12) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        first, last = header["layer5"]["data_offsets"]
        file.seek(8 + length + first)
        tensor = numpy.frombuffer(file.read(last - first), numpy.float32).reshape(header["layer5"]["shape"])
    sent = bytes_sent(url) - before
    assert (tensor == tensors["layer5"]).all()
    assert sent < len(model) / 4, f"{sent} of {len(model)} bytes were fetched for it"


@check("redbot")
def redbot_finds_nothing_wrong(url):
    put(url + ".txt", b"some words\n" * 100)
    created = json.loads(run("curl", "-sSf", "-T", "-", url + ".txt", input=b"other words\n" * 100))
    by_id = url[:url.index("/v1/")] + "/v1/objects/" + created["id"]
    for target in (url + ".txt", url + ".txt?download", by_id):
        answer = json.loads(run(sys.executable, "-m", "redbot.cli", "-o", "har", target))
        for entry in answer["log"]["entries"]:
            for note in entry["_red_messages"]:
                assert note["level"] in ("GOOD", "INFO"), f"{target}: {note}"
        assert answer["log"]["entries"], answer


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    binary, data_dir = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    # Where there is a proxy, it is not asked for this machine.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"
    server, failed = Server(binary, data_dir), 0
    url = f"http://127.0.0.1:{server.connection.port}{SCOPE}object"
    try:
        server.request("PUT", SCOPE + "object", BYTES).read()
        for function, needs in CHECKS:
            what = function.__name__.replace("_", " ")
            names = ("curl", *needs)
            versions = [version_of(name) for name in names]
            if None in versions:
                print(f"--      {what}: {names[versions.index(None)]} is not installed")
                continue
            with tempfile.TemporaryDirectory() as directory:
                os.chdir(directory)
                try:
                    function(url)
                    print(f"ok      {what} ({', '.join(versions[1:])})")
                except Exception as error:
                    failed += 1
                    print(f"FAILED  {what} ({', '.join(versions[1:])}): {type(error).__name__} {error}")
                os.chdir(data_dir)
    finally:
        server.stop()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
