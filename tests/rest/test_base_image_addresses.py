"""The table of public addresses, against the registries by hand and against two other guards."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ssrfguard import DEFAULT_DENIED

from gateway.base_image.addresses import is_public

REFUSED = """
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.255
169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.255
192.0.2.0 192.0.2.255 192.31.196.1 192.52.193.1 192.88.99.0 192.88.99.255 192.168.0.0 192.168.255.255
192.175.48.1 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.1
239.255.255.250 240.0.0.0 255.255.255.255 168.63.129.16 100.100.100.200 192.0.0.192
:: ::1 ::2 ::ffff:0:0 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::10.0.0.1 64:ff9b::168.63.129.16 64:ff9b:1::1 64:ff9b:1::808:808
100::1 100:0:0:1::1 2001:: 2001:0:808:808::f7f7:f7f7 2001:0:4136:e378:8000:63bf:80ff:fffe 2001:2::1
2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1 2002:7f00:1:: 2002:a9fe:a9fe::
2002:808:808:: 2620:4f:8000::1 3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254
fe80::1 fe80::1%eth0 febf::1 fec0::1 feff::1 ff02::1 ff0e::1
2606:4700::5efe:7f00:1 2606:4700::200:5efe:10.0.0.1 2606:4700::5efe:169.254.169.254
""".split()
PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0
192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 203.0.112.255 203.0.114.0 223.255.255.255
2000:: 2001:200::1 2001:4860:4860::8888 2003::1 2606:4700:4700::1111 2a00:1450:4001::1 3ffe::1 3fff:1000::1
64:ff9b::8.8.8.8 2606:4700::5efe:8.8.8.8
""".split()


@pytest.mark.parametrize("address", REFUSED)
def test_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "[::1]", "1.2.3.4:80"])
def test_only_addresses_are_judged(text: str) -> None:
    with pytest.raises(ValueError):
        is_public(text)


V4 = st.ip_addresses(v=4) | st.sampled_from(
    [ip_address(text) for text in REFUSED + PUBLIC if ":" not in text]
)
PREFIXES = ("::", "::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "2606:4700::5efe:0:0", "2606:4700::200:5efe:0:0")
NETWORKS = (
    "2000::/3",
    "2001::/22",
    "2001::/32",
    "2001:db8::/30",
    "2002::/16",
    "2620:4f:8000::/44",
    "3ffe::/15",
)


def in_last_bits(prefix: str, inner: IPv4Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address(prefix)) | int(inner))


def in_6to4(inner: IPv4Address) -> IPv6Address:
    return IPv6Address(0x2002 << 112 | int(inner) << 80 | 1)


V6 = st.one_of(
    st.ip_addresses(v=6),
    st.sampled_from(NETWORKS).flatmap(lambda text: st.ip_addresses(network=IPv6Network(text))),
    st.builds(in_last_bits, st.sampled_from(PREFIXES), V4),
    st.builds(in_6to4, V4),
)


@settings(max_examples=5_000, deadline=None)
@given(V4 | V6)
def test_what_others_refuse_is_refused(address: IPv4Address | IPv6Address) -> None:
    refused_elsewhere = DEFAULT_DENIED.classify(address).blocked or address.is_private or address.is_multicast
    assert not (refused_elsewhere and is_public(str(address)))
