"""A scripted DNS server on loopback that can lie, truncate and stall.  Needs dnspython.

    with Server({('example.org', 'MX'): ['10 mx.example.org']}) as server: server.address == (b'127.0.0.1',
    port)
zone: (name, type) -> list of record texts, or one of the words below, or a function(server, query, tcp) ->
bytes or None.  Names that stand there for another type answer NODATA, others NXDOMAIN.  CNAMEs are not
followed by it.
"""
import socket
import threading

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

SILENT, SERVFAIL, REFUSED, FORMERR, NXDOMAIN, NODATA = 'silent', 'servfail', 'refused', 'formerr', 'nxdomain', 'nodata'
TRUNCATED = 'truncated'     # by UDP; by TCP the records of (name, type + '/tcp')


class Server:
    """UDP and TCP on the same free port."""

    def __init__(self, zone, address='127.0.0.1', port=0, ttl=300, authentic=False, tcp=True):
        """authentic: of all answers, or of those whose name it says so of, that they are validated."""
        self.zone, self.ttl, self.authentic = zone, ttl, authentic
        self.asked = []         # (name, type, by tcp)
        while True:
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((address, port))
            self.port = self.udp.getsockname()[1]
            try:
                self.tcp = socket.create_server((address, self.port)) if tcp else None
                break
            except OSError:
                self.udp.close()
        self.address = address.encode(), self.port

    def answer(self, wire, tcp=False):
        """The answer to a query, as bytes, or None."""
        query = dns.message.from_wire(wire)
        name, kind = query.question[0].name.to_text(omit_final_dot=True).lower(), query.question[0].rdtype
        kind = dns.rdatatype.to_text(kind)
        self.asked.append((name, kind, tcp))
        what = self.zone.get((name, kind))
        if what == TRUNCATED and tcp:
            what = self.zone.get((name, kind + '/tcp'))
        if callable(what):
            return what(self, query, tcp)
        return self.plain(query, name, kind, what)

    def plain(self, query, name, kind, what):
        """An honest answer, or the kind of refusal that `what` names."""
        response = dns.message.make_response(query, recursion_available=True)
        if self.authentic(name) if callable(self.authentic) else self.authentic:
            response.flags |= dns.flags.AD
        if what is None and (name, 'CNAME') in self.zone:
            kind, what = 'CNAME', self.zone[name, 'CNAME']
        if what == SILENT:
            return None
        if what == TRUNCATED:
            response.flags |= dns.flags.TC
        elif isinstance(what, list):
            response.answer.append(dns.rrset.from_text_list(name + '.', self.ttl, 'IN', kind, what, origin=dns.name.root,
                                                            relativize=False))
        elif what in (SERVFAIL, REFUSED, FORMERR, NXDOMAIN):
            response.set_rcode(dns.rcode.from_text(what))
        elif what is None and not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire(max_size=65535)

    def _serve_udp(self):
        while True:
            try:
                wire, client = self.udp.recvfrom(65535)
                if not wire:            # shut down
                    return
                reply = self.answer(wire)
                for packet in reply if isinstance(reply, list) else [reply]:
                    if packet is not None:
                        self.udp.sendto(packet, client)
            except OSError:
                return

    def _serve_tcp(self):
        while True:
            try:
                sock, _ = self.tcp.accept()
            except OSError:
                return
            try:
                size = int.from_bytes(sock.recv(2), 'big')
                reply = self.answer(sock.recv(size), tcp=True)
                if reply is not None:
                    sock.sendall(len(reply).to_bytes(2, 'big') + reply)
            except OSError:
                pass
            sock.close()

    def __enter__(self):
        threading.Thread(target=self._serve_udp, daemon=True).start()
        if self.tcp:
            threading.Thread(target=self._serve_tcp, daemon=True).start()
        return self

    def __exit__(self, *_):
        for sock in (self.udp, self.tcp):
            if sock:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                sock.close()
