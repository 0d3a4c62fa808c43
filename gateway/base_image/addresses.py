"""Which IP addresses are public. `ipaddress.is_global` has holes, and they differ by release of Python."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# IANA IPv4 Special-Purpose Address Registry, whole blocks; then what other registries and clouds add.
NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network, RFC 791
            "10.0.0.0/8",  # private use, RFC 1918
            "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; Alibaba's metadata 100.100.100.200
            "127.0.0.0/8",  # loopback, RFC 1122
            "169.254.0.0/16",  # link-local, RFC 3927; metadata of most clouds
            "172.16.0.0/12",  # private use, RFC 1918
            "192.0.0.0/24",  # IETF protocol assignments, RFC 6890; Oracle's metadata 192.0.0.192
            "192.0.2.0/24",  # documentation, RFC 5737
            "192.31.196.0/24",  # AS112, RFC 7535
            "192.52.193.0/24",  # AMT, RFC 7450
            "192.88.99.0/24",  # 6to4 relay anycast, RFC 7526
            "192.168.0.0/16",  # private use, RFC 1918
            "192.175.48.0/24",  # AS112, RFC 7534
            "198.18.0.0/15",  # benchmarking, RFC 2544
            "198.51.100.0/24",  # documentation, RFC 5737
            "203.0.113.0/24",  # documentation, RFC 5737
            "240.0.0.0/4",  # reserved, RFC 1112; limited broadcast
            "224.0.0.0/4",  # multicast, RFC 5771, a registry of its own
            "168.63.129.16/32",  # Azure's platform address: public by allocation, internal by use
        ),
    )
)

# IANA Internet Protocol Version 6 Address Space. What lies outside is not public: loopback, IPv4-mapped and
# IPv4-compatible, local-use NAT64, discard-only, SRv6, unique-local (AWS' metadata fd00:ec2::254),
# link-local, site-local, multicast, and all that is not given out yet.
GLOBAL_UNICAST = IPv6Network("2000::/3")

# IANA IPv6 Special-Purpose Address Registry, whole blocks inside GLOBAL_UNICAST.
NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # IETF protocol assignments, RFC 2928; Teredo, whose IPv4 may be private, RFC 4380
            "2001:db8::/32",  # documentation, RFC 3849
            "2002::/16",  # 6to4, whose IPv4 may be private, RFC 3056
            "2620:4f:8000::/48",  # AS112, RFC 7534
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)

NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: networks of IPv6 only reach every IPv4 host through it
ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: bits 64 to 95 when the last 32 are an IPv4 address


def is_public(address: str) -> bool:
    """Whether `address`, and any IPv4 address inside it, is public; ValueError if it is no IP address."""
    parsed = ip_address(address)
    return _v4_is_public(parsed) if isinstance(parsed, IPv4Address) else _v6_is_public(parsed)


def _v4_is_public(address: IPv4Address) -> bool:
    return not any(address in network for network in NOT_PUBLIC_V4)


def _v6_is_public(address: IPv6Address) -> bool:
    inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in NAT64:
        return _v4_is_public(inner)
    if address not in GLOBAL_UNICAST or any(address in network for network in NOT_PUBLIC_V6):
        return False
    return (int(address) >> 32) & 0xFFFFFFFF not in ISATAP or _v4_is_public(inner)
