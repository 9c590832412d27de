"""One upload by tuspy: upload.py ENDPOINT FILE [PIECE_BYTES] [checksum] [slow] [url=FILE] [from=URL]"""

import sys
import time

from tusclient import client

endpoint, path, *words = sys.argv[1:]
options = dict(word.split("=", 1) for word in words if "=" in word)
pieces = [int(word) for word in words if word.isdigit()] or [1_000_000]
uploader = client.TusClient(endpoint).uploader(
    path,
    chunk_size=pieces[0],
    url=options.get("from"),
    metadata={"filename": "file", "filetype": "application/x-test"},
    retries=100,
    retry_delay=0.2,
    upload_checksum="checksum" in words,
)
if "slow" not in words:
    uploader.upload()
while uploader.offset < uploader.get_file_size():
    uploader.upload_chunk()
    if "url" in options:
        with open(options["url"], "w") as file:
            file.write(uploader.url)
    time.sleep(0.1)
