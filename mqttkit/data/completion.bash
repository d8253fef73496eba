# Bash 4.4 or newer. COMP_WORDBREAKS makes it split words at : = and @, which topic names contain. The function joins the
# parts, and answers without the parts that readline leaves in the line; it replaces an @, unlike the others.
_mqttkit_completion() {
    local words=() word gap rest=$COMP_LINE index kind value
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        gap=$rest
        [[ -n $word ]] && gap=${rest%%"$word"*}
        rest=${rest#"$gap$word"}
        if [[ $index -gt 0 && -z $gap && ($word == [:=@]* || ${words[-1]} == *[:=@]) ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done

    local typed=${words[-1]}
    [[ $typed == --*=* ]] && typed=${typed#*=}
    local breaks=${COMP_WORDBREAKS//[^:=@]/} kept=
    [[ -n $breaks && $typed != [\'\"]* ]] && kept=${typed%"${typed##*[$breaks]}"}
    kept=${kept%@}

    while IFS=, read -r kind value; do
        case $kind in
        dir) COMPREPLY=() && compopt -o dirnames ;;
        file) COMPREPLY=() && compopt -o default ;;
        plain) COMPREPLY+=("${value#"$kept"}") ;;
        esac
    done < <(
        IFS=$'\n'
        env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _MQTTKIT_COMPLETE=bash_complete "${1/#\~\//$HOME/}" 2>/dev/null
    )
}

complete -o nosort -F _mqttkit_completion mqttkit
