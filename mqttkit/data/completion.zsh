#compdef mqttkit

_mqttkit_completion() {
    local -a answer names described
    local kind value meaning
    answer=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) _MQTTKIT_COMPLETE=zsh_complete ${(Q)words[1]} 2>/dev/null)}")
    compset -P '--*=' # complete the value of --option=value, not the whole word

    for kind value meaning in $answer; do
        case $kind in
        dir) _path_files -/ ;;
        file) _path_files ;;
        plain) if [[ $meaning == _ ]]; then names+=("$value"); else described+=("$value:$meaning"); fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U -i "$IPREFIX"
    (( $#names )) && compadd -U -i "$IPREFIX" -V unsorted -a names
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _mqttkit_completion "$@" # zsh has found the file in fpath
else
    compdef _mqttkit_completion mqttkit
fi
