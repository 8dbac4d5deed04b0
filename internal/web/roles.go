package web

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/user"
	"strconv"
	"strings"
)

// ReadRoles reads lines of "NAME-OR-UID ROLE"; # begins a comment.
func ReadRoles(r io.Reader) (Roles, error) {
	roles := Roles{}
	lines := bufio.NewScanner(r)
	n := 1
	for ; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("roles line %d: want a user and a role", n)
		}
		uid, err := lookupUID(fields[0])
		if err != nil {
			return nil, fmt.Errorf("roles line %d: %w", n, err)
		}
		role, err := ParseRole(fields[1])
		if err != nil {
			return nil, fmt.Errorf("roles line %d: %w", n, err)
		}
		roles[uid] = role
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("roles line %d: longer than %d bytes", n, bufio.MaxScanTokenSize)
	case err != nil:
		return nil, fmt.Errorf("read roles: %w", err)
	}
	return roles, nil
}

func lookupUID(name string) (uint32, error) {
	if uid, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(uid), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(uid), err
}
