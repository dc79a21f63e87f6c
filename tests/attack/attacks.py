"""The attacks: one table, name by name, with its measure and its criterion."""

from tests.attack import (
    auth,
    durability,
    floods,
    hooks,
    injection,
    life,
    memory,
    mutations,
    parser,
    slow,
)
from tests.attack.table import ESMTP, EVERY, PLAIN, Attack
from tests.attack.wire import TLS

IMPATIENT = {"keywords": {"timeout": 0.5, "auth_require_tls": False}, "auth": True}
OPEN_AUTH = {"keywords": {"auth_require_tls": False}, "auth": True}
NEEDS_AUTH = {"keywords": {"auth_require_tls": False, "auth_required": True}, "auth": True}
SMALL = {"keywords": {"data_size_limit": 2**20}}
WIDE = {"keywords": {"command_size_limit": 200_000, "line_length_limit": 200_000}}
WILD = {"handler": "wild", "seconds": 1.0}
TOLD = {"level": "DEBUG"}

MEMORY = (
    Attack("pipeliner-never-reads", memory.never_reads, "MiB", 6, 4, 100, EVERY),
    Attack("endless-command", memory.endless_command, "MiB", 4, 16, 300, EVERY),
    Attack("endless-line", memory.endless_line, "MiB", 4, 16, 300, EVERY, SMALL),
    Attack("endless-data", memory.endless_data, "MiB", 4, 16, 300, EVERY, SMALL),
    Attack("short-lines", memory.short_lines, "octets an octet", 1.5, 8, 24, (*PLAIN, *TLS)),
    Attack("ten-thousand-recipients", memory.recipients, "recipients", 1000, 1500, 10_000, EVERY),
    Attack("idle-connections", memory.idle_connections, "KiB each", 16, 100, 1000, PLAIN[:5]),
    # Nearly all of it is OpenSSL's.
    Attack("idle-tls-connections", memory.idle_connections, "KiB each", 64, 50, 1000, TLS),
    Attack("endless-auth", memory.endless_auth, "MiB", 4, 16, 300, ("smtp", *TLS), OPEN_AUTH),
    Attack("endless-chunk", memory.endless_chunk, "MiB", 4, 16, 300, ESMTP, SMALL),
    Attack("tiny-chunks", memory.tiny_chunks, "MiB", 4, 10, 400, ESMTP),
    Attack("endless-proxy-header", memory.endless_proxy_header, "MiB", 4, 16, 300, ("proxy",)),
)

SLOW = (
    Attack("slow-command", slow.command, "s", 2, 1, 1, EVERY[:5] + TLS, IMPATIENT),
    Attack("slow-empty-lines", slow.unknown_commands, "s", 2, 1, 1, ("smtp",), IMPATIENT),
    Attack("slow-data", slow.data, "s", 2, 1, 1, EVERY[:5] + TLS, IMPATIENT),
    Attack("slow-chunk", slow.chunk, "s", 2, 1, 1, ("modern", "all"), IMPATIENT),
    Attack("slow-auth", slow.auth, "s", 2, 1, 1, ("smtp", *TLS), IMPATIENT),
    Attack(
        "slow-proxy-header",
        slow.proxy_header,
        *("s", 2, 1, 1, ("proxy",)),
        {"keywords": {"proxy_protocol_timeout": 0.5}},
    ),
    Attack("slow-starttls", slow.starttls, "s", 2, 1, 1, ("starttls",), IMPATIENT),
    Attack("slow-implicit-tls", slow.implicit_tls, "s", 2, 1, 1, ("smtps",), IMPATIENT),
    Attack("silent-implicit-tls", slow.silent_tls, "s", 2, 1, 1, ("smtps",), IMPATIENT),
    Attack(
        "chatty",
        slow.chatty,
        *("s", 2, 1, 1, ("smtp",)),
        {"keywords": {"session_timeout": 0.5}},
    ),
    Attack("honest-slow-data", slow.honest, "lost", 0, 10, 50, ("smtp", *TLS), IMPATIENT),
    Attack("honest-slow-chunk", slow.honest_chunk, "lost", 0, 10, 50, ("modern",), IMPATIENT),
    Attack("honest-slow-commands", slow.honest_commands, "lost", 0, 4, 20, ("smtp",), IMPATIENT),
)

FLOODS = (
    Attack("connections", floods.connections, "s", 1, 200, 2000, PLAIN[:5]),
    Attack("tls-connections", floods.connections, "s", 1, 20, 500, TLS),
    Attack("resets", floods.resets, "descriptors", 1, 5, 200, EVERY),
    Attack(
        "exhausted-descriptors",
        floods.exhausted_descriptors,
        *("log records", 20, 100, 300, ("smtp",)),
        {"rlimit": {"NOFILE": 64}},
        own=True,
    ),
    Attack(
        "connections-in-all",
        floods.served_at_a_time,
        *("connections", 50, 80, 500, ("smtp",)),
        {"keywords": {"max_connections": 50}},
    ),
    # Limits of the command line for one address.
    Attack("connections-of-a-host", floods.served_at_a_time, "connections", 50, 80, 500, ("cli",)),
    Attack(
        "handshakes-of-a-host",
        floods.handshakes_at_a_time,
        *("connections", 50, 80, 500, ("smtps",)),
        {"keywords": {"max_connections_per_host": 50}},
    ),
    Attack(
        "room-for-others",
        floods.room_for_others,
        *("hosts refused", 0, 50, 500, ("smtps", "smtp")),
        {"keywords": {"max_connections": 40, "max_connections_per_host": 10}},
    ),
    Attack(
        "connection-rate",
        floods.served_in_a_row,
        *("connections", 30, 60, 500, ("smtp",)),
        {"keywords": {"max_connection_rate": 30}},
    ),
    Attack("endless-errors", floods.endless_errors, "replies", 20, 40, 10_000, (*PLAIN, *TLS)),
    Attack("endless-junk", floods.endless_junk, "commands", 100, 150, 10_000, ("cli",)),
    Attack("tls-on-a-plain-port", slow.tls_on_a_plain_port, "s", 1, 1, 1, ("smtp", "cli")),
    Attack("pipeline-starvation", floods.pipeline_starvation, "s", 0.5, 5, 200, ("smtp", "modern")),
    Attack("parser-starvation", floods.parser_starvation, "s", 0.5, 5, 200),
    Attack("large-message", floods.large_message, "s", 0.5, 4, 30, ("smtp", "starttls", "modern")),
    Attack(
        "blocking-handler",
        floods.blocking_handler,
        *("s", 0.5, 5, 50),
        server={"handler": "blocking", "seconds": 2.0},
    ),
    Attack("silent-next-hop", floods.silent_next_hop, "s", 0.5, 5, 50, alone=True),
)

INJECTION = (
    Attack("smuggling", injection.smuggling, "messages", 0, 1, 1, EVERY),
    Attack("smuggling-through-proxy", injection.smuggling_through, "messages", 0, 1, 1, alone=True),
    Attack("starttls-injection", injection.starttls, "commands", 0, 1, 1, ("starttls",)),
    Attack("response-splitting", injection.response_splitting, "replies", 0, 1, 1, EVERY),
    Attack("response-of-hooks", injection.response_of_hooks, "replies", 0, 1, 1, ("smtp",), WILD),
    Attack("log-forging", injection.log_forging, "lines", 0, 1, 1, ("smtp",), TOLD, own=True),
    Attack(
        "header-forging",
        injection.header_forging,
        *("fields", 0, 1, 1, ("smtp",)),
        {"handler": "headers"},
        own=True,
    ),
    Attack("http", injection.http, "commands", 0, 1, 1, ("smtp", "modern", "cli")),
    Attack("proxy-spoofing", injection.spoofed_proxy, "headers", 0, 1, 1, ("smtp", "lmtp", "cli")),
    Attack("proxy-malformed", injection.malformed_proxy, "headers", 0, 1, 1, ("proxy",)),
    Attack(
        "proxy-untrusted",
        injection.proxy_of_a_stranger,
        *("headers", 0, 1, 1, ("proxy",)),
        {"keywords": {"proxy_trusted": "192.0.2.0/24"}},
    ),
    Attack("xclient-spoofing", injection.spoofed_xclient, "commands", 0, 1, 1, EVERY),
)

AUTH = (
    Attack("brute-force", auth.brute_force, "guesses", 10, 15, 1000, ("smtp", *TLS), OPEN_AUTH),
    Attack("auth-aborts", auth.aborts, "exchanges", 10, 15, 1000, ("smtp", *TLS), OPEN_AUTH),
    Attack("auth-long-answer", auth.long_answers, "answers", 0, 20_000, 60_000, server=OPEN_AUTH),
    Attack("auth-in-the-clear", auth.in_the_clear, "commands", 0, 1, 1, alone=True),
    Attack("auth-bypass", auth.bypass, "commands", 0, 1, 1, ("smtp", "modern"), NEEDS_AUTH),
    Attack(
        "secrets-in-the-log",
        auth.secrets_in_the_log,
        *("secrets", 0, 1, 1, ("smtp", "starttls")),
        {**OPEN_AUTH, **TOLD},
        own=True,
    ),
)

HOOKS = (
    Attack(
        "hook-garbage-rcpt", hooks.garbage_of_rcpt, "replies", 0, 1, 1, ("smtp", "modern"), WILD
    ),
    Attack("hook-garbage-data", hooks.garbage_of_data, "replies", 0, 1, 1, ("smtp", "lmtp"), WILD),
    Attack("hook-faults", hooks.faults_are_temporary, "replies", 0, 1, 1, ("smtp", "lmtp"), WILD),
    Attack("hook-hangs", hooks.hanging, "s", 0.5, 5, 50, ("smtp",), WILD),
    Attack(
        "failed-data-leaks",
        hooks.failed_data_leaks,
        *("recipients", 0, 1, 1, ("smtp", "lmtp")),
        {**WILD, "keywords": {"data_size_limit": 10_000}},
        own=True,
    ),
)

PARSER = (
    Attack("parser-time", parser.slowest, "ms", 20, 500, 500, ("smtp", "all")),
    Attack("parser-time-100-kB", parser.slowest, "ms", 20, 20_000, 100_000, ("smtp",), WIDE),
    Attack("parser-exceptions", parser.internal_exceptions, "replies", 0, 300, 5000, EVERY[:5]),
)

MUTATIONS = (
    Attack(
        "mutated-dialogues",
        mutations.mutated,
        *("faults", 0, 300, 20_000, ("smtp", "lmtp", "modern", "all")),
        OPEN_AUTH,
        own=True,
    ),
)

DURABILITY = (
    Attack("kill", durability.killed, "messages", 0, 50, 1200, alone=True),
    Attack("sigterm", durability.terminated, "messages", 0, 50, 1200, alone=True),
    Attack("full-disk", durability.full_disk, "faults", 0, 20, 60, alone=True),
    Attack("file-size-limit", durability.file_size_limit, "faults", 0, 3, 50, alone=True),
    Attack("fsync", durability.synced, "messages", 0, 3, 50, alone=True),
    Attack("next-hop-fails", durability.lost_by_the_next_hop, "messages", 0, 1, 1, alone=True),
)

LIFE = (
    Attack(
        "stop-idle", life.stop_with_open_connections, "s", 5, 20, 1000, (*EVERY[:3], *TLS), own=True
    ),
    Attack("stop-untold", life.clients_that_are_not_told, "clients", 0, 20, 500, own=True),
    Attack(
        "stop-in-flight",
        life.stop_with_messages_in_flight,
        *("messages", 0, 5, 50, ("smtp", "lmtp")),
        {"handler": "wild", "seconds": 0.5},
        own=True,
    ),
    Attack(
        "vanish-in-hooks",
        life.hooks_left,
        *("tasks", 0, 3, 50, ("smtp", "lmtp", *TLS)),
        {"handler": "wild", "seconds": 60.0},
        own=True,
    ),
    Attack(
        "vanish-committed",
        life.committed_hooks,
        *("messages", 0, 3, 50, ("smtp", "modern")),
        {"handler": "wild", "seconds": 2.5},
        own=True,
    ),
    Attack("restarts", life.restarts, "lines", 0, 10, 100, alone=True),
    Attack("developers-mode", life.developers_mode, "lines", 0, 1, 50, alone=True),
)

ATTACKS = MEMORY + SLOW + FLOODS + INJECTION + AUTH + HOOKS + PARSER + MUTATIONS + DURABILITY + LIFE
