"""LemonLDAP::NG's portal as an OpenID provider, from Debian's package, under plackup: its defaults, RS256, users alice and bob.

Prints {"issuer"} when it answers and ends when standard input does; the line "revoke NAME" deletes a user's refresh
sessions. Access tokens live TOKEN_LIFE seconds. Needs: DEBIAN (where the packages were unpacked), CLIENT_ID,
CLIENT_SECRET, REDIRECT_URI.
"""

import ctypes
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from launcher import free_port, obey

# The demonstration's accounts have their names as passwords. Captcha, registration and reset by mail need packages that
# Debian only recommends or suggests, and without them the portal does not start: they are switched off.
APPLICATION = """
package Lemonldap::NG::Portal::Captcha::None;
use Mouse;
extends 'Lemonldap::NG::Portal::Main::Plugin';
sub init { 1 }
BEGIN { $INC{'Lemonldap/NG/Portal/Captcha/None.pm'} = __FILE__ }

package main;
use Lemonldap::NG::Portal::Main;
use Lemonldap::NG::Portal::UserDB::Demo;
for my $name (qw(alice bob)) {
    $Lemonldap::NG::Portal::UserDB::Demo::demoAccounts{$name} =
      { uid => $name, cn => $name, mail => "$name\\@example.org" };
}
Lemonldap::NG::Portal::Main->run( {} );
"""

SETTINGS = """[all]
logLevel = error
[configuration]
type = File
dirName = {folder}/conf
localStorage = Cache::FileCache
localStorageOptions = {{ 'namespace' => 'config', 'default_expires_in' => 600, 'cache_root' => '{folder}/cache', 'cache_depth' => 1 }}
[portal]
staticPrefix = /static
templateDir = {debian}/usr/share/lemonldap-ng/portal/templates
languages = en
"""

debian = os.environ["DEBIAN"]
life = int(os.environ.get("TOKEN_LIFE", "3600"))
folder = tempfile.TemporaryDirectory()
port = free_port()
issuer = f"http://127.0.0.1:{port}/"
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

for name in ["conf", "cache", "sessions", "sessions/lock", "psessions", "psessions/lock"]:
    os.mkdir(f"{folder.name}/{name}")


def write(name, text):
    with open(f"{folder.name}/{name}", "w") as file:
        file.write(text)


write("portal.psgi", APPLICATION)
write("lemonldap-ng.ini", SETTINGS.format(folder=folder.name, debian=debian))
with open(f"{debian}/var/lib/lemonldap-ng/conf/lmConf-1.json") as file:
    configuration = json.load(file)
configuration |= {
    "domain": "127.0.0.1",
    "portal": issuer,
    "key": "of the tests",
    "captcha": "::Captcha::None",
    "registerDB": "Null",
    "portalDisplayResetPassword": 0,
    "issuerDBOpenIDConnectActivation": 1,
    "globalStorage": "Apache::Session::File",
    "globalStorageOptions": {
        "Directory": f"{folder.name}/sessions",
        "LockDirectory": f"{folder.name}/sessions/lock",
        "generateModule": "Lemonldap::NG::Common::Apache::Session::Generate::SHA256",
    },
    "persistentStorage": "Apache::Session::File",
    "persistentStorageOptions": {
        "Directory": f"{folder.name}/psessions",
        "LockDirectory": f"{folder.name}/psessions/lock",
    },
    "localSessionStorageOptions": {
        "namespace": "sessions",
        "default_expires_in": 600,
        "cache_root": f"{folder.name}/cache",
        "cache_depth": 1,
    },
    "oidcServiceKeyIdSig": "first",
    "oidcServicePrivateKeySig": key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode(),
    "oidcServicePublicKeySig": key.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode(),
    "oidcRPMetaDataOptions": {
        "tokenward": {
            "oidcRPMetaDataOptionsClientID": os.environ["CLIENT_ID"],
            "oidcRPMetaDataOptionsClientSecret": os.environ["CLIENT_SECRET"],
            "oidcRPMetaDataOptionsRedirectUris": os.environ["REDIRECT_URI"],
            "oidcRPMetaDataOptionsDisplayName": "tokenward",
            "oidcRPMetaDataOptionsIDTokenSignAlg": "RS256",
            "oidcRPMetaDataOptionsAllowOffline": 1,
            "oidcRPMetaDataOptionsAccessTokenExpiration": life,
        }
    },
    "oidcRPMetaDataExportedVars": {"tokenward": {"name": "cn"}},
}
write("conf/lmConf-1.json", json.dumps(configuration))


def end_with_parent():
    """The kernel ends the server when this process is gone, however it went."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


libraries = ["usr/share/perl5", "usr/lib/x86_64-linux-gnu/perl5/5.36"]
server = subprocess.Popen(
    ["/usr/bin/perl", f"{debian}/usr/bin/plackup", "--host", "127.0.0.1", "--port", str(port), "-E", "production",
     f"{folder.name}/portal.psgi"],
    env={
        **os.environ,
        "PERL5LIB": ":".join(f"{debian}/{library}" for library in libraries),
        "LD_LIBRARY_PATH": f"{debian}/usr/lib/x86_64-linux-gnu",
        "LLNG_DEFAULTCONFFILE": f"{folder.name}/lemonldap-ng.ini",
    },
    stdin=subprocess.DEVNULL,
    stdout=sys.stderr,
    preexec_fn=end_with_parent,
)
while True:
    if server.poll() is not None:
        sys.exit(f"plackup ended with {server.returncode}")
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        break
    except OSError:
        time.sleep(0.02)


def revoke(name):
    count = 0
    for path in glob.glob(f"{folder.name}/sessions/*"):
        if os.path.isfile(path):
            with open(path, errors="replace") as file:
                session = json.load(file)
            if session.get("_type") == "refresh_token" and name in (session.get("_session_uid"), session.get("uid")):
                os.remove(path)
                count += 1
    return count


obey(issuer, revoke)
server.kill()
server.wait()
folder.cleanup()
