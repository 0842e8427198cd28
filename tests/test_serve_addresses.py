"""No address reaches what the operator did not name. Resolver and transport are injected: nothing leaves here."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from prunevid_qwen.errors import MediaError
from prunevid_qwen.inputs.messages import Item
from prunevid_qwen.serve.api_errors import ApiError
from prunevid_qwen.serve.media_addresses import MediaAddresses, MediaContent, is_public

PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1::1"
Answer = Callable[[httpx.Request], httpx.Response]


def resolver(*answers: Sequence[str]) -> tuple[Any, list[str]]:
    """A DNS that says something else each time, the last thing for ever; and which names it was asked for."""
    left, asked = list(answers), list[str]()

    async def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve, asked


class Network:
    """A transport that answers by a function, and remembers what it was asked for."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.requests = list[httpx.Request]()

        async def reply(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return ok(request) if answer is None else answer(request)

        self.transport = httpx.MockTransport(reply)

    def addresses(self, resolve: Any = None, **more: Any) -> MediaAddresses:
        resolve = resolver([PUBLIC])[0] if resolve is None else resolve
        return MediaAddresses(frozenset({"media.example"}), resolve=resolve, transport=self.transport, **more)


def ok(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "image/png"}, content=b"picture")


def read(addresses: MediaAddresses, address: Any, kind: str = "image") -> MediaContent:
    return asyncio.run(addresses.content(Item(kind, address)))


def refused(addresses: MediaAddresses, address: Any, kind: str = "image") -> ApiError:
    with pytest.raises(ApiError) as raised:
        read(addresses, address, kind)
    return raised.value


def test_an_allowed_domain_is_read_at_the_address_that_was_looked_at() -> None:
    network = Network()
    assert read(network.addresses(), "https://media.example/a.png?x=1").files == (b"picture",)
    (request,) = network.requests
    assert request.url.host == PUBLIC and request.headers["host"] == "media.example"
    assert request.extensions["sni_hostname"] == "media.example" and request.url.query == b"x=1"
    assert request.headers["accept-encoding"] == "identity" and "authorization" not in request.headers


@pytest.mark.parametrize(
    "address",
    [
        "http://media.example/a.png", "https://other.example/a.png", "https://media.example.evil.example/a.png",
        "https://evil.media.example/a.png", "https://media.example@evil.example/a.png",
        "https://user:word@media.example/a.png", "https://media.example:8443/a.png", "https://127.0.0.1/a.png",
        "https://[::1]/a.png", "https://2130706433/a.png", "https://0x7f.1/a.png", "https:///a.png", "https://",
        "ftp://media.example/a.png", "gopher://media.example", "//media.example/a.png", "/etc/passwd", "", "\0",
        "https://media.example\\@evil.example/", "file:///etc/passwd", "javascript:alert(1)", 7, None,
    ],
)  # fmt: skip
def test_other_addresses_are_not_even_looked_up(address: Any) -> None:
    resolve, asked = resolver([PUBLIC])
    network = Network()
    assert refused(network.addresses(resolve), address).status == 400
    assert not asked and not network.requests


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1",
        "2001:0:53aa:64c:0:fffe:80ff:fffe", "::127.0.0.1", "not an address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    network = Network()
    refused(network.addresses(resolver([address])[0]), "https://media.example/a.png")
    refused(network.addresses(resolver([PUBLIC, address])[0]), "https://media.example/a.png")  # one of several
    assert not network.requests


def test_public_addresses() -> None:
    assert is_public(PUBLIC) and is_public(OTHER) and is_public("::ffff:8.8.8.8") and is_public("64:ff9b::808:808")


def test_a_name_that_changes_is_asked_for_once() -> None:
    resolve, asked = resolver([PUBLIC], ["127.0.0.1"])
    network = Network()
    read(network.addresses(resolve), "https://media.example/a.png")
    assert asked == ["media.example"] and [each.url.host for each in network.requests] == [PUBLIC]


def moved(*to: str) -> Answer:
    """Redirect once to each address."""
    left = list(to)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": left.pop(0)}) if left else ok(request)

    return answer


def test_a_redirect_is_an_address_as_any_other() -> None:
    network = Network(moved("/b.png", "https://media.example/c.png"))
    assert read(network.addresses(), "https://media.example/a.png").files == (b"picture",)
    for to in (
        "https://127.0.0.1/",
        "http://media.example/",
        "https://other.example/",
        "file:///etc/passwd",
        "//evil/",
    ):
        network = Network(moved(to))
        refused(network.addresses(), "https://media.example/a.png")
        assert len(network.requests) == 1
    # the name of the second step means this machine
    network = Network(moved("/b.png"))
    refused(network.addresses(resolver([PUBLIC], ["127.0.0.1"])[0]), "https://media.example/a.png")
    assert len(network.requests) == 1
    network = Network(moved(*["/again.png"] * 9))
    refused(network.addresses(), "https://media.example/a.png")
    assert len(network.requests) == 4


class Endless(httpx.AsyncByteStream):
    """A body that never ends, and counts what was taken."""

    taken = 0

    async def __aiter__(self) -> Any:
        while True:
            self.taken += 1000
            yield b"x" * 1000


def test_a_download_is_bounded_while_it_streams() -> None:
    body = Endless()
    network = Network(lambda _: httpx.Response(200, headers={"content-type": "video/mp4"}, stream=body))
    assert refused(network.addresses(most_bytes=5000), "https://media.example/a.mp4", "video").status == 413
    assert body.taken <= 6000


def test_a_download_is_bounded_in_time() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    addresses = MediaAddresses(frozenset({"media.example"}), seconds=0.05, resolve=resolver([PUBLIC])[0],
                               transport=httpx.MockTransport(never))  # fmt: skip
    refused(addresses, "https://media.example/a.png")


@pytest.mark.parametrize(
    "head",
    [
        {"content-type": "text/html"}, {"content-type": "video/mp4"}, {"content-type": "application/x-mpegurl"},
        {"content-type": "image/png", "content-encoding": "gzip"},
    ],
)  # fmt: skip
def test_types_and_encodings_of_an_image(head: dict[str, str]) -> None:
    import gzip

    body = gzip.compress(b"0" * 10**6) if "content-encoding" in head else b"x"
    network = Network(lambda _: httpx.Response(200, headers=head, stream=httpx.ByteStream(body)))
    refused(network.addresses(), "https://media.example/a.png")


def test_failures_are_told_without_the_answer() -> None:
    for status in (204, 206, 404, 500):
        network = Network(lambda _, status=status: httpx.Response(status, content=b"secret"))  # type: ignore[misc]
        assert "secret" not in refused(network.addresses(), "https://media.example/a.png").message

    def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("10.1.2.3 is not there")

    assert "10.1.2.3" not in refused(Network(broken).addresses(), "https://media.example/a.png").message


# ---- files


def test_files_under_the_media_folder_alone(tmp_path: Path) -> None:
    root, secret = tmp_path / "media", tmp_path / "secret.mp4"
    root.mkdir()
    secret.write_bytes(b"secret")
    (root / "a b.mp4").write_bytes(b"video")
    (root / "out.mp4").symlink_to(secret)
    (root / "in.mp4").symlink_to(root / "a b.mp4")
    (root / "up").symlink_to(tmp_path)
    addresses = MediaAddresses(root=root)
    assert read(addresses, "file:a%20b.mp4", "video").files == (b"video",)
    refused(addresses, "file:../secret.mp4", "video")
    assert read(addresses, f"file://{root}/a%20b.mp4", "video").files == (b"video",)
    assert read(addresses, f"file://localhost{root}/in.mp4", "video").files == (b"video",)
    for path in ("out.mp4", "../secret.mp4", "%2e%2e/secret.mp4", "up/secret.mp4", "", ".", "none.mp4", "a%00.mp4"):
        refused(addresses, f"file://{root}/{path}", "video")
    refused(addresses, f"file://evil{root}/a%20b.mp4", "video")
    refused(addresses, "file:///dev/zero", "video")
    refused(addresses, str(root / "a b.mp4"), "video")
    refused(MediaAddresses(), f"file://{root}/a%20b.mp4", "video")
    assert refused(MediaAddresses(root=root, most_bytes=4), f"file://{root}/a%20b.mp4", "video").status == 413


# ---- data: URIs


def test_data_and_lists_of_frames() -> None:
    held, addresses = base64.b64encode(b"picture").decode(), MediaAddresses(most_bytes=8)
    assert read(addresses, f"data:image/png;base64,{held}").files == (b"picture",)
    frames = read(addresses, [f"data:image/png;base64,{held}"] * 2, "video")
    assert frames.frames and frames.files == (b"picture",) * 2
    assert read(addresses, f"data:video/jpeg;base64,{held},{held}", "video").digest == frames.digest
    assert frames.digest != read(addresses, f"data:image/png;base64,{held}").digest
    assert refused(addresses, "data:image/png;base64," + base64.b64encode(b"x" * 9).decode()).status == 413
    for wrong in ([], [f"data:image/png;base64,{held}", "/etc/passwd"], [["x"]]):
        refused(addresses, wrong, "video")
    with pytest.raises(MediaError):
        read(addresses, "data:image/png;base64,")
