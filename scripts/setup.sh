# Sourced by the scripts next to it. They run in the repository's root, with the virtual environment's programs first.

cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# Prints a Python that this package supports: $PYTHON, or the first on the path that is new enough.
find_python() {
    for candidate in ${PYTHON:-python3 python3.15 python3.14 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "Python 3.10 or newer is needed; set PYTHON to one."
    return 1
}

# Makes .venv, and installs into it what is given as arguments of "pip install", unless that has been done.
# The first argument names what is installed.
install() {
    name=$1
    shift
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        "$python" -m venv .venv || {
            rm -rf .venv
            say "No virtual environment could be made; on Debian and Ubuntu, the package python3-venv is needed."
            return 1
        }
    fi
    PATH="$PWD/.venv/bin:$PATH"
    stamp=.venv/installed-$name
    if [ ! -f "$stamp" ] || [ -n "$(find pyproject.toml -newer "$stamp")" ]; then
        say "Installing into .venv; this takes a minute the first time."
        python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"  # the first with --group
        python -m pip install --quiet --disable-pip-version-check "$@"
        : >"$stamp"
    fi
}

# Whether PostgreSQL is here; Debian and Ubuntu put it where it is not on the path.
has_postgres() {
    command -v postgres >/dev/null && command -v initdb >/dev/null && return
    for program in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$program" ] && return
    done
    return 1
}

# Installs Debian packages that provide what is missing of: node npm chromium redis-server postgres nginx haproxy caddy
# apache2.
# Tells what to do where it can't.
install_system_packages() {
    missing=
    for program in node npm chromium redis-server postgres nginx haproxy caddy apache2; do
        case $program in
            chromium) command -v "${CHROMIUM:-chromium}" >/dev/null || missing="$missing chromium" ;;
            node) command -v node >/dev/null || missing="$missing nodejs" ;;
            redis-server) command -v redis-server >/dev/null || missing="$missing redis-server" ;;
            postgres) has_postgres || missing="$missing postgresql" ;;
            nginx) command -v nginx >/dev/null || missing="$missing nginx" ;;
            haproxy | caddy | apache2) command -v "$program" >/dev/null || missing="$missing $program" ;;
            npm) command -v npm >/dev/null || missing="$missing npm" ;;
        esac
    done
    if [ -z "$missing" ]; then
        return
    fi
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "Installing the packages$missing."
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        say "Missing:$missing. The tests need them, and only root can install them here. Please install them, for"
        say "example by: sudo apt-get install$missing (CHROMIUM can be set to the path of another Chromium)."
        return 1
    fi
}

# Installs the npm package that the tests decode event streams with, unless it is there.
install_node_packages() {
    if [ ! -d tests/node_modules ] || [ -n "$(find tests/package.json -newer tests/node_modules)" ]; then
        npm install --prefix tests --loglevel error --no-audit --no-fund --no-package-lock
        touch tests/node_modules
    fi
}
