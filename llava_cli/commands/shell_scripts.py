"""The scripts with which bash, zsh and fish ask llava what may follow; `llava --install-completion` writes them.

They take the place of typer's, which know no files: with those, a name with a space falls apart.
All three ask in the way that typer has for fish, whose answer is the plainest: a value and what it is, one on a line.
"""

from __future__ import annotations

from llava_cli.commands.completion import FILE, PICTURE
from llava_cli.sniffing import SUFFIXES

_ASK = "env %(autocomplete_var)s=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS="
_GLOB = "|".join(sorted({form for suffix in SUFFIXES for form in (suffix[1:], suffix[1:].upper())}))

_BASH = r"""
%(complete_func)s() {
    local value about line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=()
    while IFS=$'\t' read -r value about; do
        [[ -n $value ]] || continue
        COMPREPLY+=("$value")
        # Then bash puts quotes where a name needs them, and lets one go on behind a folder.
        [[ $about != PICTURE && $about != FILE ]] || compopt -o filenames
    done < <(ASK"$line" "$1" 2>/dev/null)
    # Of a word with a colon, bash completes what is behind it.
    local word="${line##*[[:space:]]}"
    if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%%"${word##*:}"}"}")
    fi
}

complete -F %(complete_func)s %(prog_name)s
"""

_ZSH = r"""
#compdef %(prog_name)s

%(complete_func)s() {
    local line value about
    local -a names
    for line in "${(@f)$(ASK"${words[1,$CURRENT]}" %(prog_name)s 2>/dev/null)}"; do
        value="${line%%%%$'\t'*}" about="${line#*$'\t'}"
        case "$about" in
            PICTURE) _files -g "*.(GLOB)"; return ;;
            FILE) _files; return ;;
        esac
        [[ -z "$value" ]] || names+=("${value//:/\\:}${about:+:$about}")
    done
    (( $#names )) && _describe -V value names
}

compdef %(complete_func)s %(prog_name)s
"""

_FISH = 'complete --command %(prog_name)s --no-files --arguments "(ASK(commandline -cp) %(prog_name)s)"'


def _written(script: str) -> str:
    return script.replace("ASK", _ASK).replace("GLOB", _GLOB).replace("PICTURE", PICTURE).replace("FILE", FILE)


def teach_typer() -> None:
    """Let typer install and show these scripts."""
    from typer import _completion_shared

    # It has no public place for them; the table has had this name since its version 0.4.
    known = getattr(_completion_shared, "_completion_scripts", {})
    known.update({"bash": _written(_BASH), "zsh": _written(_ZSH), "fish": _written(_FISH)})
