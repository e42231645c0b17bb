"""A client that finds a service by SRV records, with dnspython: prints one IP:PORT a line.

Usage: read_srv.py SERVER PORT NAME
"""

import sys

import dns.resolver

server, port, name = sys.argv[1:]
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = [server]
resolver.port = int(port)
resolver.lifetime = 20

targets = {}
for record in resolver.resolve(name, "SRV"):
    assert (record.priority, record.weight) == (1, 1), record
    host = record.target.to_text()
    targets.setdefault(host, set()).add(record.port)
for host, ports in targets.items():
    for address in resolver.resolve(host, "A"):
        for each in ports:
            print(f"{address}:{each}")
