"""Wrong configuration files, each with the lines that tell its faults."""

GOOD = 'listen = ":8025"\nhandler = "shop:Handler"\n'
"""The first two lines of many files; with them alone a file is right."""

ROUTE = 'listen = ":8025"\nspool.path = "spool"\n[[route]]\n'
"""The first three lines of a file with a route."""

PLACES = 'a list of places such as ["smtp://0.0.0.0:25", "lmtp://unix:/run/lmtp"]'

WRONG: dict[str, tuple[str, list[str]]] = {
    "not TOML": ('listen = ":25"\nworkers 4\n', [":2: not TOML: Expected '=' after a key"]),
    "nothing": (
        "",
        [
            f": listen: missing: write {PLACES}",
            ": nothing takes the mail: write [[route]] with to, or handler",
        ],
    ),
    "unknown table": (
        GOOD + "[limit]\nsize = 1\n",
        [":3: limit: unknown key: did you mean limits?"],
    ),
    "unknown key": (
        GOOD + "[limits]\nper_host = 3\n",
        [":4: limits.per_host: unknown key: did you mean connections_per_host?"],
    ),
    "key in another table": (
        GOOD + 'size = "25M"\n',
        [":3: size: unknown key: did you mean limits.size?"],
    ),
    "key below a table": (
        GOOD + "[limits]\nworkers = 4\n",
        [":4: limits.workers: unknown key: write workers above the first [table]"],
    ),
    "wrong workers": (
        GOOD + 'workers = "four"\n',
        [':3: workers: expected a number from 1 to 1024, or "auto", not "four"'],
    ),
    "user with a line end": (
        GOOD + 'user = "a\\nExecStartPre=b"\n',
        [':3: user: expected a name such as "mail", not "a\\nExecStartPre=b"'],
    ),
    "doors of an operator that clients have": (
        'listen = ["0.0.0.0:9025", "unix:s"]\nhandler = "shop:Handler"\n'
        '[admin]\nhttp = "127.0.0.1:9025"\nsocket = "s"\n',
        [":4: admin.http: this is listen.1 too", ":5: admin.socket: this is listen.2 too"],
    ),
    "sockets of systemd that have two places": (
        'listen = ["smtp://systemd", "smtps://systemd:tls"]\nhandler = "shop:Handler"\n'
        "tls = { cert = 'c', key = 'k' }\n",
        [':1: listen.2: "systemd" without a name has these sockets too: name those of each place'],
    ),
    "no worker": (
        GOOD + "workers = 0\n",
        [':3: workers: expected a number from 1 to 1024, or "auto", not 0'],
    ),
    "wrong size": (
        GOOD + "[limits]\nsize = '25X'\n",
        [':4: limits.size: expected a size such as "500K", "25M" or "1G", not "25X"'],
    ),
    "wrong time": (
        GOOD + '[drain]\n\nlinger = "5 sec"\n',
        [':5: drain.linger: expected a time such as "30s", "5m", "2h" or "5d", not "5 sec"'],
    ),
    "negative number": (
        GOOD + "limits.recipients = -1\n",
        [":3: limits.recipients: expected a whole number; 0 for no limit, not -1"],
    ),
    "text for a switch": (
        GOOD + 'smtp = { smtputf8 = "yes" }\n',
        [':3: smtp.smtputf8: expected true or false, not "yes"'],
    ),
    "wrong word": (
        GOOD + '[smtp]\nbare_newline = "refuse"\n',
        [
            ':4: smtp.bare_newline: expected "reject", "normalize" or "accept", not "refuse"',
        ],
    ),
    "wrong preset": (
        'preset = "mta"\n' + GOOD,
        [':1: preset: expected "mx", "submission", "lmtp" or "relay", not "mta"'],
    ),
    "table as a value": (GOOD + "limits = 3\n", [":3: limits: expected a table, not 3"]),
    "two wrong places": (
        'handler = "a:B"\nlisten = [\n  "smtp://127.0.0.1",\n  ":8025",\n  "ftp://:21",\n]\n',
        [
            ":3: listen.1: a place has a port, such as smtp://127.0.0.1:25, not 'smtp://127.0.0.1'",
            ":5: listen.3: Unknown scheme 'ftp' in 'ftp://:21': write smtp, smtps, lmtp",
        ],
    ),
    "the same place twice": (
        'handler = "a:B"\nlisten = [":25", ":25"]\n',
        [":2: listen.2: this place is listen.1 too"],
    ),
    "smtps without a certificate": (
        'handler = "a:B"\nlisten = "smtps://:465"\n',
        [":2: listen.1: smtps:// needs a certificate: write [tls] with cert and key"],
    ),
    "LMTP on the port of SMTP": (
        'handler = "a:B"\nlisten = "lmtp://:25"\n',
        [":2: listen.1: LMTP must not use port 25 (RFC 2033): use another one, or unix:PATH"],
    ),
    "certificate without a key": (
        GOOD + '[tls]\ncert = "a.pem"\n',
        [":3: tls.key: missing: write the path of a file or folder"],
    ),
    "network with host bits": (
        GOOD + '[proxy]\ntrusted = ["10.0.0.1/8"]\n',
        [":4: proxy.trusted.1: a network ends in zeros, such as 10.0.0.0/8, not '10.0.0.1/8'"],
    ),
    "handler that is a path": (
        'listen = ":8025"\nhandler = "shop.py"\n',
        [':2: handler: expected "module:Class", not "shop.py"'],
    ),
    "handler and routes": (
        GOOD + 'spool.path = "s"\n[[route]]\nto = "reject"\n',
        [
            ":3: spool: a handler takes the place of [spool]: leave out one of them",
            ":4: route: a handler takes the place of [route]: leave out one of them",
        ],
    ),
    "route without a spool": (
        'listen = ":8025"\n[[route]]\nto = "reject"\n',
        [": spool: missing: write [spool] with path; mail is there until it is delivered"],
    ),
    "route without a place": (
        ROUTE + 'match = "*@example.org"\n',
        [':3: route.1.to: missing: write a text such as "lmtp://127.0.0.1:24"'],
    ),
    "unknown scheme": (
        ROUTE + 'to = "smpt://127.0.0.1"\n',
        [
            ':4: route.1.to: "smpt://127.0.0.1" is not a place to deliver to: did you mean smtp?',
        ],
    ),
    "pattern without a mark": (
        ROUTE + 'to = "maildir:m"\nmatch = ["*@example.org", "example.net"]\n',
        [
            ":5: route.1.match.2: a pattern has an @, such as '*@example.com', not 'example.net'",
        ],
    ),
    "option of another place": (
        ROUTE + 'to = "maildir:m"\nverify = false\n',
        [":5: route.1.verify: unknown key: verify is for smtp:, not for maildir:"],
    ),
    "wrong retry": (
        ROUTE + 'to = "maildir:m"\nretry = "often"\n',
        [':5: route.1.retry: expected a table of times, "local" or "remote", not "often"'],
    ),
    "two routes of one name": (
        ROUTE
        + 'to = "maildir:m"\nmatch = "*@a.test"\nname = "a"\n'
        + '[[route]]\nto = "reject"\nname = "a"\n',
        [":9: route.2.name: route.1 has this name too"],
    ),
    "drop without a report": (
        ROUTE + 'to = "maildir:m"\ndead = "drop"\n',
        [':5: route.1.dead: "drop" needs bounce, or mail would be lost without a word'],
    ),
    "open relay by omission": (
        ROUTE + 'to = "smtp://smarthost.example.org"\n',
        [
            ":4: route.1.to: no client may use this route: name hosts in relay_networks, or "
            "auth.users",
        ],
    ),
    "password without TLS": (
        GOOD + '[auth]\nusers = "users"\n',
        [":4: auth.users: AUTH is only offered over TLS: write [tls] with cert and key"],
    ),
    "AUTH without users": (
        ROUTE + 'to = "maildir:m"\n[auth]\nrequired = true\n',
        [":6: auth.required: no client could send mail: name a file with users in auth.users"],
    ),
    "secret that is not there": (
        ROUTE + 'to = "https://127.0.0.1/"\nsecret = "file:gone"\n',
        [":5: route.1.secret: {folder}/gone cannot be read: No such file or directory"],
    ),
    "variable that is not set": (
        'handler = "a:B"\nlisten = ":${GONE}"\n',
        [":2: listen: the variable GONE is not set"],
    ),
    "many faults": (
        'workers = "four"\nlisten = ":8025"\n[limits]\nsize = "25X"\nrecipiens = 3\n'
        '[[route]]\nto = "smtpp://a"\n[route.retry]\nfirst = "5 sec"\n',
        [
            ':1: workers: expected a number from 1 to 1024, or "auto", not "four"',
            ':4: limits.size: expected a size such as "500K", "25M" or "1G", not "25X"',
            ":5: limits.recipiens: unknown key: did you mean recipients?",
            ':7: route.1.to: "smtpp://a" is not a place to deliver to: did you mean smtp?',
            ":9: route.1.retry.first: expected a time above 0, such as "
            '"30s", "5m", "2h" or "5d", not "5 sec"',
            ": spool: missing: write [spool] with path; mail is there until it is delivered",
        ],
    ),
}
"""The text of each file, and its lines without the name of the file in front."""
