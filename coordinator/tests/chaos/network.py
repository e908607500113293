"""The network between agents and coordinator: a TCP proxy on loopback that can be cut, stalled, half closed and made to lose."""

import socket
import struct
import threading

PIECE_BYTES = 65536
# With this, closing resets the connection, as a host that is gone does, instead of ending it in order.
RESET = struct.pack("ii", 1, 0)


class Connection:
    """One connection of an agent and its continuation to the coordinator."""

    def __init__(self, network, agent, coordinator):
        self.network = network
        self.ends = (agent, coordinator)
        self.dead = False  # A black hole: nothing gets through any more, and nobody is told.
        self.deaf = False  # Requests get through, answers do not.
        self.open_ways = 2

    def start(self):
        for source, target, answers in (*self.ends, False), (*reversed(self.ends), True):
            threading.Thread(target=self._pump, args=(source, target, answers), daemon=True).start()

    def _pump(self, source, target, answers):
        try:
            while piece := source.recv(PIECE_BYTES):
                self.network.flowing.wait()
                if not (self.dead or (self.deaf and answers)):
                    target.sendall(piece)
            if not self.dead:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            self.cut()
        finally:
            self.open_ways -= 1
            if self.open_ways == 0 and not self.dead:
                self.cut()

    def half_close(self, end):
        """One end hears that nothing more will come, and may still send."""
        try:
            self.ends[end].shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        with self.network.lock:
            self.network.connections.discard(self)
        for end in self.ends:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                # Wakes whoever reads from it; a descriptor is only closed when nobody does.
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


class Network:
    """Listens at `port`, passes on to `target` (a port), which moves when the coordinator is restarted."""

    def __init__(self):
        self.target = None
        self.lock = threading.Lock()
        self.connections = set()
        self.flowing = threading.Event()
        self.flowing.set()
        self.refusing = False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                agent, _ = self.listener.accept()
            except OSError:
                return
            try:
                if self.refusing or self.target is None:
                    raise ConnectionRefusedError
                coordinator = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                coordinator.settimeout(None)
            except OSError:
                agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                agent.close()
                continue
            connection = Connection(self, agent, coordinator)
            with self.lock:
                self.connections.add(connection)
            connection.start()

    def _each(self, act):
        with self.lock:
            found = list(self.connections)
        for connection in found:
            act(connection)

    def cut(self):
        """Every connection is reset and no new one is made until `heal`."""
        self.refusing = True
        self._each(Connection.cut)

    def stall(self):
        """Nothing gets through until `heal`; then everything that was sent does, in order."""
        self.flowing.clear()

    def forget(self):
        """The connections that there are lead nowhere from now on, and nobody is told; new ones are good."""
        self._each(lambda connection: setattr(connection, "dead", True))

    def lose_answers(self):
        """Requests arrive, their answers do not; ended by `heal` with a reset."""
        self._each(lambda connection: setattr(connection, "deaf", True))

    def half_close(self, random):
        self._each(lambda connection: connection.half_close(random.randrange(2)))

    def heal(self):
        self.refusing = False
        self.flowing.set()
        self._each(lambda connection: connection.cut() if connection.deaf else None)

    def heal_whole(self):
        """The same, and black holes are found out at once instead of by the agents' patience."""
        self.heal()
        self._each(lambda connection: connection.cut() if connection.dead else None)

    def close(self):
        self.listener.close()
        self.heal()
        self._each(Connection.cut)
