"""From the addresses in a request to bytes: data: URIs, files under one folder, and https: of named domains.

An address is never opened by anything but this file. Of a name that is looked up, all addresses have to be public, and
the connection goes to one of those that were looked at: a name that means another machine a moment later changes
nothing. A redirect is an address as any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import httpx

from prunevid_qwen.errors import MediaError, quoted
from prunevid_qwen.inputs.messages import Item
from prunevid_qwen.serve.api_errors import ApiError
from prunevid_qwen.video.data_uris import content_of, is_data_uri

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host's name and a port to the addresses of that host."""
_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
_FRAMES = "data:video/jpeg;base64,"
"""Frames with commas between them, as clients of other servers send a sampled video."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class MediaContent:
    """What a request shows, as bytes.

    Args:
        kind: "video" or "image".
        files: the content of one file, or of each frame of a video.
        options: how it is read, by the names of `prunevid_qwen.inputs.messages`.
        frames: ``files`` are the frames of a video.
    """

    kind: str
    files: tuple[bytes, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    frames: bool = False

    @property
    def digest(self) -> str:
        """What tells this content from all others; how it is read is not in it."""
        digest = hashlib.sha256(f"{self.kind} {self.frames} {len(self.files)}".encode())
        for each in self.files:
            digest.update(hashlib.sha256(each).digest())
        return digest.hexdigest()


async def looked_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as this machine's resolver knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public Internet; one that holds an IPv4 address is judged by that.

    >>> [is_public(each) for each in ("93.184.216.34", "127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
    [True, False, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.ipv4_mapped is not None or ip.sixtofour is not None or ip.teredo is not None:
            return ip.ipv4_mapped is not None and is_public(str(ip.ipv4_mapped))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


@dataclass(frozen=True)
class MediaAddresses:
    """Which addresses are opened, and how much is read.

    Args:
        domains: of which ``https:`` is opened, each exactly.
        root: under which ``file:`` is opened, by absolute paths or from there on; None: nowhere.
        most_bytes: of one file.
        seconds: that a download may take.
        resolve: looks a name up.
        transport: of httpx; None is the network.
    """

    domains: frozenset[str] = frozenset()
    root: Path | None = None
    most_bytes: int = 200 * 10**6
    seconds: float = 30.0
    resolve: Resolve = looked_up
    transport: httpx.AsyncBaseTransport | None = None

    async def content(self, item: Item) -> MediaContent:
        """Return the bytes of an item that shows something.

        Raises:
            ApiError: an address that is not opened, or that fails.
            MediaError: a data: URI that is none.
        """
        held = item.held
        if isinstance(held, str) and held.lower().startswith(_FRAMES) and "," in held[len(_FRAMES) :]:
            held = [_FRAMES.replace("video", "image") + each for each in held[len(_FRAMES) :].split(",")]
        frames = isinstance(held, list)
        if frames and (item.kind != "video" or not held):
            raise _refused("a list of addresses is the frames of one video, and not empty")
        files = tuple(
            [await self._read(each, "image" if frames else item.kind) for each in (held if frames else [held])]
        )
        if not all(files):
            raise MediaError("an image or a video of the request is empty: send its whole content")
        return MediaContent(item.kind, files, dict(item.options), frames)

    async def _read(self, address: Any, kind: str) -> bytes:
        if not isinstance(address, str):
            raise _refused(f"an address is a text, got {quoted(address, 80)}")
        if is_data_uri(address):
            return self._checked(content_of(address))
        scheme = address.partition(":")[0].lower()
        if scheme == "file":
            return await asyncio.to_thread(self._file, address)
        if scheme != "https":
            raise _refused(f"addresses are data:, https: of the allowed domains or file: under the media folder; got "
                           f"{quoted(address, 80)}")  # fmt: skip
        try:
            with anyio.fail_after(self.seconds):
                return await self._downloaded(address, kind)
        except TimeoutError:
            raise _refused(f"{quoted(address, 80)} took more than {self.seconds:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise _refused(f"{quoted(address, 80)} cannot be read ({type(error).__name__})") from None

    def _checked(self, content: bytes) -> bytes:
        self._check_size(len(content))
        return content

    def _check_size(self, size: int) -> None:
        if size > self.most_bytes:
            raise ApiError(413, f"a file has at most {self.most_bytes / 10**6:g} MB here", "too_large", "messages")

    def _file(self, address: str) -> bytes:
        parts = urlsplit(address)
        path, found = unquote(parts.path), None
        if self.root is not None and parts.netloc in ("", "localhost") and "\0" not in path:
            try:
                found = (self.root / path).resolve(strict=True)  # an absolute path stays what it is
            except OSError:
                found = None
        if self.root is None or found is None or not found.is_relative_to(self.root.resolve()) or not found.is_file():
            raise _refused(f"{quoted(address, 80)} is no file under the media folder of this server")
        with open(os.open(found, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            return self._checked(file.read(self.most_bytes + 1))

    async def _downloaded(self, address: str, kind: str) -> bytes:
        async with httpx.AsyncClient(transport=self.transport, trust_env=False, timeout=self.seconds) as client:
            for _ in range(_REDIRECTS + 1):
                url = self._allowed(address)
                head = {"host": url.netloc.decode(), "accept-encoding": "identity", "user-agent": "prunevid_qwen"}
                # the address of the connection is one that was looked at; certificate and host stay the name's
                named = {"sni_hostname": url.host}
                request = client.build_request("GET", await self._pinned(url), headers=head, extensions=named)
                answer = await client.send(request, stream=True)
                try:
                    if answer.status_code in _MOVED and "location" in answer.headers:
                        address = str(url.join(answer.headers["location"]))
                        continue
                    return await self._body(answer, address, kind)
                finally:
                    await answer.aclose()
        raise _refused(f"{quoted(address, 80)} was reached by more than {_REDIRECTS} redirects")

    def _allowed(self, address: str) -> httpx.URL:
        """Return an address of an allowed domain; nothing has been looked up."""
        try:
            url = httpx.URL(address)
            port = url.port
        except (httpx.InvalidURL, ValueError):
            raise _refused(f"{quoted(address, 80)} is no address") from None
        allowed = {each.lower() for each in self.domains}
        if url.scheme != "https" or url.host.lower().rstrip(".") not in allowed or url.userinfo:
            names = ", ".join(sorted(allowed)) or "none is"
            raise _refused(f"{quoted(address, 80)} is not of an allowed domain: {names}")
        if port not in (None, 443):
            raise _refused(f"{quoted(address, 80)} names a port: https: has 443 alone")
        return url

    async def _pinned(self, url: httpx.URL) -> httpx.URL:
        """Return an address with a public IP address of its host in place of the host's name."""
        found = list(await self.resolve(url.host, 443))
        if not found or not all(map(is_public, found)):
            raise _refused(f"{quoted(url.host, 80)} is not a host of the public Internet")
        return url.copy_with(host=found[0])

    async def _body(self, answer: httpx.Response, address: str, kind: str) -> bytes:
        if answer.status_code != 200:
            raise _refused(f"{quoted(address, 80)} answers {answer.status_code}")
        form = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if form not in ("", "application/octet-stream", "binary/octet-stream") and not form.startswith(
            ("image/",) if kind == "image" else ("video/", "image/")
        ):
            raise _refused(f"{quoted(address, 80)} is {quoted(form, 80)}, and no {kind}")
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise _refused(f"{quoted(address, 80)} comes compressed, which was not asked for")
        content = bytearray()
        async for part in answer.aiter_bytes():
            content += part  # no encoding is left to undo
            self._check_size(len(content))
        return bytes(content)


def _refused(why: str) -> ApiError:
    return ApiError(400, why, "invalid_address", "messages")
