"""The knock at ClearML's server checks certificates as the SDK does."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def test_a_certificate_of_one_s_own_is_taken_as_the_sdk_takes_it(tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), AnyLogin)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    conf = tmp_path / "clearml.conf"
    conf.write_text(
        f'api {{ api_server: "https://127.0.0.1:{server.server_port}", verify_certificate: false\n'
        '  credentials { access_key: "a", secret_key: "b" } }'
    )
    script = (
        "import os, sys\n"
        "from cluster.tracking.clearml_process import knock\n"
        "print(repr(knock()))\n"
        "os.environ['CLEARML_API_HOST_VERIFY_CERT'] = 'true'\n"
        "print(repr(knock()))\n"
        "os.environ['REQUESTS_CA_BUNDLE'] = sys.argv[1]\n"
        "print(repr(knock()))"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLEARML_")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(certificate)],
        env={**inherited, "CLEARML_CONFIG_FILE": str(conf)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    server.shutdown()
    server.server_close()
    told_no_check, checked, own_authority = done.stdout.splitlines()
    assert told_no_check == "''", done.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in checked
    assert own_authority == "''"


class AnyLogin(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for 127.0.0.1 that nobody else has signed, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "own.crt", folder / "own.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return files
