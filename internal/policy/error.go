package policy

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Error says where a policy is wrong.
type Error struct {
	Line, Column int // from 1; 0 when the place is not known
	Msg          string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return "policy: " + e.Msg
	}
	return fmt.Sprintf("policy: line %d, column %d: %s", e.Line, e.Column, e.Msg)
}

// text is a scalar with its place.
type text struct {
	s  string
	at *token.Position
}

// part is a part of the text, at its place.
func (t text) part(s string) text { return text{s: s, at: t.at} }

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (t *text) UnmarshalYAML(n ast.Node) error {
	t.at = n.GetToken().Position
	switch v := n.(type) {
	case *ast.StringNode:
		t.s = v.Value
	case *ast.LiteralNode:
		t.s = v.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		t.s = n.GetToken().Value
	default:
		return t.errorf("want a single value")
	}
	return nil
}

func (t text) errorf(format string, args ...any) error {
	e := &Error{Msg: fmt.Sprintf(format, args...)}
	if t.at != nil {
		e.Line, e.Column = t.at.Line, t.at.Column
	}
	return e
}

// located turns the decoder's errors into *Error.
func located(err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	if e, ok := errors.AsType[yaml.Error](err); ok {
		out := &Error{Msg: plain(e)}
		if t := e.GetToken(); t != nil {
			out.Line, out.Column = t.Position.Line, t.Position.Column
		}
		return out
	}
	return &Error{Msg: err.Error()}
}

// twice is how the parser names a key that is there already.
var twice = regexp.MustCompile(`^mapping key "(.*)" already defined`)

// plain says what the decoder found in the words of the policy's documentation.
func plain(err yaml.Error) string {
	if e, ok := errors.AsType[*yaml.UnexpectedNodeTypeError](err); ok {
		return fmt.Sprintf("want %s, not %s", shape(e.Expected), shape(e.Actual))
	}
	if _, ok := errors.AsType[*yaml.SyntaxError](err); ok {
		if m := twice.FindStringSubmatch(err.GetMessage()); m != nil {
			return m[1] + " is given twice"
		}
		return "cannot be read as YAML: " + err.GetMessage()
	}
	return err.GetMessage()
}

// shape names a kind of YAML node by how it is written.
func shape(n ast.NodeType) string {
	switch n {
	case ast.MappingType, ast.MappingValueType:
		return "fields (key: value)"
	case ast.SequenceType:
		return "a list ([...])"
	}
	return "a single value"
}
