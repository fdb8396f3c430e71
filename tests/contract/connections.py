"""Record each attempt of a process, and of all that it starts, to connect to a network: in C, below every library."""

import shutil
import subprocess
from pathlib import Path

RECORDER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what) {
    int file = open(CONNECTIONS, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file >= 0) {
        dprintf(file, "%s\n", what);
        close(file);
    }
}

typedef int connect_type(int, const struct sockaddr *, socklen_t);
typedef ssize_t sendto_type(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
typedef int getaddrinfo_type(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int is_network(const struct sockaddr *address) {
    return address && (address->sa_family == AF_INET || address->sa_family == AF_INET6);
}

int connect(int descriptor, const struct sockaddr *address, socklen_t length) {
    if (is_network(address)) note("connect");
    return ((connect_type *)dlsym(RTLD_NEXT, "connect"))(descriptor, address, length);
}

ssize_t sendto(int descriptor, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    if (is_network(to)) note("sendto");
    return ((sendto_type *)dlsym(RTLD_NEXT, "sendto"))(descriptor, data, size, flags, to, length);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    note(name ? name : "getaddrinfo");
    return ((getaddrinfo_type *)dlsym(RTLD_NEXT, "getaddrinfo"))(name, service, hints, found);
}
"""
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("c++")


class Connections:
    """A library to preload, and what the processes that had it loaded have tried to reach."""

    def __init__(self, folder: Path) -> None:
        self.library, self._record = folder / "connections.so", folder / "connections"
        source = folder / "connections.c"
        source.write_text(f'#define CONNECTIONS "{self._record}"\n{RECORDER}')
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", self.library, source, "-ldl"], check=True)

    @property
    def variables(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library)}

    def attempts(self) -> list[str]:
        return self._record.read_text().splitlines() if self._record.exists() else []
