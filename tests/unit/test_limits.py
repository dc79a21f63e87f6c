"""``Limits``, ``Meter`` and ``Crowd``, with times chosen by the tests."""

import typing
from typing import Any

import attrs
import pytest

from aiosmtpd.protocol import replies
from aiosmtpd.protocol.limits import (
    DEFAULT_LIMITS,
    DESCRIPTORS_KEPT,
    Crowd,
    LimitKeywords,
    Limits,
    Meter,
    limits_of,
)
from aiosmtpd.protocol.networks import host_key
from aiosmtpd.smtp import SMTP


class TestLimits:
    def test_keywords_and_settings_are_the_same(self) -> None:
        assert typing.get_type_hints(LimitKeywords) == typing.get_type_hints(Limits)

    def test_no_limit_is_an_explicit_keyword_of_smtp(self) -> None:
        named = set(SMTP.__init__.__annotations__)
        assert not named & {field.name for field in attrs.fields(Limits)}

    def test_the_defaults(self) -> None:
        assert attrs.asdict(limits_of({})) == {
            "max_recipients": 1000,
            "max_recipient_domains": None,
            "max_transactions": None,
            "max_hops": 100,
            "max_auth_failures": 10,
            "max_errors": 20,
            "max_junk_commands": None,
            "max_connections": "descriptors",
            "max_connections_per_host": None,
            "max_connection_rate": None,
            "data_timeout": 180,
            "min_data_rate": 100,
            "handler_timeout": None,
            "handshake_timeout": 30,
            "session_timeout": None,
        }

    def test_the_same_keywords_are_the_same_limits(self) -> None:
        keywords = {"max_errors": 3, "data_timeout": 1.5}
        assert limits_of(keywords) is limits_of(dict(reversed(keywords.items())))
        assert limits_of(keywords).max_hops == DEFAULT_LIMITS.max_hops

    @pytest.mark.parametrize("nothing", [None, 0])
    def test_none_and_0_switch_a_limit_off(self, nothing: Any) -> None:
        assert limits_of({"max_errors": nothing}).max_errors is None

    @pytest.mark.parametrize("value", [-1, "many", "descriptors"])
    def test_bad_values_are_refused(self, value: Any) -> None:
        text = "max_errors must be a number above 0, or None, not"
        with pytest.raises(ValueError, match=text):
            limits_of({"max_errors": value})

    def test_they_are_frozen(self) -> None:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            DEFAULT_LIMITS.max_errors = 3  # type: ignore[misc]


class TestMeter:
    def test_errors_end_the_session(self) -> None:
        meter = Meter(Limits(max_errors=2))
        meter.count_error()
        assert meter.farewell is None
        meter.count_error()
        assert meter.farewell == replies.TOO_MANY_ERRORS

    def test_junk_ends_the_session(self) -> None:
        meter = Meter(Limits(max_junk_commands=2))
        meter.count_junk()
        meter.count_junk()
        assert meter.farewell is None
        meter.count_junk()
        assert meter.farewell == replies.TOO_MUCH_JUNK

    def test_an_accepted_message_resets_the_counts(self) -> None:
        meter = Meter(Limits(max_errors=2, max_junk_commands=1))
        for _ in range(3):
            meter.count_error()
            meter.count_junk()
            meter.message_accepted()
        assert meter.farewell is None

    def test_without_limits_no_count_ends_the_session(self) -> None:
        meter = Meter(Limits(max_errors=None))
        for _ in range(1000):
            meter.count_error()
            meter.count_junk()
        assert meter.farewell is None

    def test_a_dribble_is_detected(self) -> None:
        meter = Meter(Limits(min_data_rate=100))
        # One byte a second: accepted for the first minute.
        assert not any(meter.is_dribble(1.0, octets, 60) for octets in range(1, 61))
        assert meter.is_dribble(1.0, 61, 60)

    def test_an_honest_slow_sender_is_never_cut(self) -> None:
        meter = Meter(Limits(min_data_rate=100))
        assert not any(meter.is_dribble(1.0, 100 * second, 60) for second in range(1, 100_000))

    def test_the_credit_of_a_fast_start_is_bounded(self) -> None:
        meter = Meter(Limits(min_data_rate=100))
        assert not meter.is_dribble(1.0, 30_000_000, 60)
        seconds = 0
        while not meter.is_dribble(100.0, 30_000_000 + seconds, 60):
            seconds += 100
        assert 500 <= seconds <= 700

    def test_each_message_has_its_own_time(self) -> None:
        meter = Meter(Limits(min_data_rate=100))
        assert not meter.is_dribble(60.0, 1, 60)
        meter.begin_message()
        assert not meter.is_dribble(60.0, 1, 60)

    def test_without_a_rate_nothing_is_a_dribble(self) -> None:
        assert not Meter(Limits(min_data_rate=None)).is_dribble(9999.0, 1, 60)


class TestCrowd:
    def test_connections_are_limited_by_descriptors(self) -> None:
        crowd = Crowd(DESCRIPTORS_KEPT + 2)
        assert crowd.admit("", 2, DEFAULT_LIMITS, 0) is None
        assert crowd.admit("", 3, DEFAULT_LIMITS, 0) == replies.TOO_MANY_CONNECTIONS
        assert crowd.admit("", 3, Limits(max_connections=3), 0) is None
        assert crowd.admit("", 3, Limits(max_connections=None), 0) is None

    def test_one_connection_is_always_allowed(self) -> None:
        assert Crowd(5).admit("", 1, DEFAULT_LIMITS, 0) is None

    def test_unlimited_descriptors_mean_no_limit(self) -> None:
        assert Crowd(None).admit("", 10**9, DEFAULT_LIMITS, 0) is None

    def test_connections_of_a_host_are_limited(self) -> None:
        crowd, limits = Crowd(None), Limits(max_connections_per_host=2)
        assert crowd.admit("a", 1, limits, 0) is None
        assert crowd.admit("a", 2, limits, 0) is None
        assert crowd.admit("a", 3, limits, 0) == replies.TOO_MANY_OF_HOST
        assert crowd.admit("b", 3, limits, 0) is None
        crowd.leave("a")
        assert crowd.admit("a", 3, limits, 0) is None
        for host in "aab":
            crowd.leave(host)
        assert crowd._hosts == {}

    def test_new_connections_in_a_minute_are_limited(self) -> None:
        crowd, limits = Crowd(None), Limits(max_connection_rate=2)
        for now in (100, 101):
            assert crowd.admit("a", 1, limits, now) is None
            crowd.leave("a")
        assert crowd.admit("a", 1, limits, 102) == replies.TOO_MANY_ARRIVALS
        assert crowd.admit("b", 1, limits, 102) is None
        assert crowd.admit("a", 1, limits, 161) is None

    def test_clients_without_a_host_are_not_counted(self) -> None:
        crowd, limits = Crowd(None), Limits(max_connections_per_host=1, max_connection_rate=1)
        for _ in range(3):
            assert crowd.admit("", 1, limits, 0) is None
        crowd.leave("")


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("nowhere", "nowhere"),
    ],
)
def test_hosts_are_counted_by_address_or_network(address: str, key: str) -> None:
    assert host_key(address) == key
