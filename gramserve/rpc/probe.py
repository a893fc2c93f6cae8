"""Whether the service in this container serves: `python -m gramserve.rpc.probe`, for Docker and Kubernetes.

It asks the health service on localhost, as the environment of the service says: the one GRAMSERVE_..._LISTEN that is
set, over TLS where GRAMSERVE_TLS_CERT_FILE is set. The certificate must then be good for "localhost", by the CA in
GRAMSERVE_CLIENT_CA_FILE or GRAMSERVE_TLS_CA_FILE; it is shown, too, where callers must show one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gramserve.errors import GramserveError
from gramserve.rpc.channel import open_channel
from gramserve.settings import SERVICE_PREFIXES
from gramserve.tls.options import TlsOptions

TIMEOUT_S = 4.0


async def serves(target: str, tls: TlsOptions, *, alive: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """Why the service at `target` does not serve; "" when it does, with `alive` when it answers at all."""
    async with open_channel(target, tls=tls) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            return f"no answer: {error.code().name}"
    if alive or answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def own_address(environment: Mapping[str, str]) -> str:
    """Where the service of this environment listens, on localhost. Raises LookupError unless exactly one is set."""
    named = [environment[name] for prefix in SERVICE_PREFIXES if (name := f"{prefix}LISTEN") in environment]
    if len(named) != 1:
        raise LookupError("set the GRAMSERVE_..._LISTEN of the service, and of no other")
    return named[0] if named[0].startswith("unix:") else f"localhost:{named[0].rpartition(':')[2]}"


def own_tls(environment: Mapping[str, str]) -> TlsOptions:
    """How the service of this environment is spoken to."""
    ca = environment.get("GRAMSERVE_CLIENT_CA_FILE") or environment.get("GRAMSERVE_TLS_CA_FILE", "")
    certificate, key = environment.get("GRAMSERVE_TLS_CERT_FILE", ""), environment.get("GRAMSERVE_TLS_KEY_FILE", "")
    return TlsOptions(cert_file=certificate, key_file=key, ca_file=ca) if certificate else TlsOptions()


def main() -> int:
    """Exit code 0 when it serves, 1 with a line on standard error when not."""
    parser = argparse.ArgumentParser(prog="python -m gramserve.rpc.probe", description=__doc__.partition("\n")[0])
    parser.add_argument("--alive", action="store_true", help="any answer will do, also NOT_SERVING")
    alive: bool = parser.parse_args().alive
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        why = asyncio.run(serves(own_address(os.environ), own_tls(os.environ), alive=alive))
    except (LookupError, GramserveError) as error:
        why = str(error)
    if why:
        sys.stderr.write(f"{why}\n")
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
