package kbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"afloat/internal/kit"
)

// Includes says which files of a tree may include which others. It errs on
// the side of too many: conditions are not looked at, and a name that several
// search folders have stands for all of those files. What is built into the
// command lines (-include) is included by every source.
type Includes struct {
	Forced []string            `json:"forced"`
	Uses   map[string][]string `json:"uses"` // file to the files it may include
}

// includesFile is in the kit's cache; its name changes with its format.
const includesFile = "includes-1.json.gz"

// LoadIncludes reads the kit's include graph, or makes it first, which reads
// every source and header of the kernel once.
func LoadIncludes(ctx context.Context, k *kit.Kit, x *Index, progress func(string)) (*Includes, error) {
	file := filepath.Join(k.Cache(), includesFile)
	if g, err := readIncludes(file); err == nil {
		return g, nil
	}
	if progress != nil {
		progress("reading which file includes which (once per kernel)")
	}
	g, err := scanIncludes(ctx, k.Source(), x)
	if err != nil {
		return nil, fmt.Errorf("read includes of %s: %w", k.Ref, err)
	}
	if err := kit.StoreGzip(file, g); err != nil {
		return nil, fmt.Errorf("read includes of %s: %w", k.Ref, err)
	}
	return g, nil
}

func readIncludes(file string) (*Includes, error) {
	var g Includes
	if err := kit.LoadGzip(file, &g); err != nil {
		return nil, err
	}
	if len(g.Uses) == 0 {
		return nil, errors.New("include graph is empty")
	}
	return &g, nil
}

// Users returns the sources that may include one of the files, directly or
// through others, sorted; the files themselves are left out.
func (g *Includes) Users(x *Index, files []string) []string {
	return g.users(x, g.closure(files), files)
}

func (g *Includes) users(x *Index, closure map[string]bool, files []string) []string {
	forced := slices.ContainsFunc(g.Forced, func(f string) bool { return closure[f] })
	var out []string
	for f := range x.units {
		if (forced || closure[f]) && !slices.Contains(files, f) {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}

// closure is the files and all that may include them, directly or not.
func (g *Includes) closure(files []string) map[string]bool {
	users := map[string][]string{}
	for user, uses := range g.Uses {
		for _, u := range uses {
			users[u] = append(users[u], user)
		}
	}
	seen := set(files)
	for queue := slices.Clone(files); len(queue) > 0; {
		f := queue[0]
		queue = queue[1:]
		for _, user := range users[f] {
			if !seen[user] {
				seen[user] = true
				queue = append(queue, user)
			}
		}
	}
	return seen
}

// scanner follows includes from every source of the index.
type scanner struct {
	root  string
	roots []string        // search folders of all objects
	tree  map[string]bool // every file of the tree

	mu       sync.Mutex
	resolved map[string][]string // include in <> or "" to files under the search folders
}

func scanIncludes(ctx context.Context, root string, x *Index) (*Includes, error) {
	s := &scanner{root: root, resolved: map[string][]string{}}
	var err error
	if s.tree, err = listTree(root); err != nil {
		return nil, err
	}
	g := &Includes{Uses: map[string][]string{}}
	s.roots, g.Forced = searchFolders(x)
	next := x.Sources()
	for seen := set(append(slices.Clone(next), g.Forced...)); len(next) > 0; {
		found, err := s.scan(ctx, next)
		if err != nil {
			return nil, err
		}
		next = nil
		for file, uses := range found {
			g.Uses[file] = uses
			for _, u := range uses {
				if !seen[u] {
					seen[u] = true
					next = append(next, u)
				}
			}
		}
		if len(g.Uses) > 0 && len(found) > 0 {
			for _, f := range g.Forced { // what is forced includes others as well
				if _, done := g.Uses[f]; !done && s.tree[f] {
					next = append(next, f)
				}
			}
		}
	}
	return g, nil
}

func set(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[n] = true
	}
	return out
}

// listTree names every regular file below root that an include can mean.
func listTree(root string) (map[string]bool, error) {
	files := map[string]bool{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() && (name == "Documentation" || name == "tools" || name == "debian") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() && !strings.HasSuffix(name, ".o") {
			files[name] = true
		}
		return nil
	})
	return files, err
}

// searchFolders collects -I and -include of all objects.
func searchFolders(x *Index) (roots, forced []string) {
	seen, force := map[string]bool{}, map[string]bool{}
	for _, units := range x.units {
		for _, u := range units {
			for _, f := range searched(u) {
				seen[path.Clean(f)] = true
			}
			for i, arg := range u.Compile {
				if arg == "-include" && i+1 < len(u.Compile) {
					force[path.Clean(u.Compile[i+1])] = true
				}
			}
		}
	}
	return sorted(seen), sorted(force)
}

// searched lists the folders that a unit's compiler looks for headers in, as its command names them.
func searched(u Unit) []string {
	var out []string
	for i, arg := range u.Compile {
		switch {
		case strings.HasPrefix(arg, "-I") && len(arg) > 2:
			out = append(out, arg[2:])
		case (arg == "-I" || arg == "-isystem" || arg == "-iquote") && i+1 < len(u.Compile):
			out = append(out, u.Compile[i+1])
		}
	}
	return out
}

func sorted(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// scan reads files and resolves what they include.
func (s *scanner) scan(ctx context.Context, files []string) (map[string][]string, error) {
	out := make(map[string][]string, len(files))
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for batch := range slices.Chunk(files, 64) {
		group.Go(func() error {
			for _, f := range batch {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				text, err := os.ReadFile(filepath.Join(s.root, f))
				if errors.Is(err, os.ErrNotExist) {
					continue // a source that the build would make first
				}
				if err != nil {
					return err
				}
				uses := s.resolve(f, text)
				mu.Lock()
				out[f] = uses
				mu.Unlock()
			}
			return nil
		})
	}
	return out, group.Wait()
}

// resolve finds the files that a text's include lines may mean.
func (s *scanner) resolve(file string, text []byte) []string {
	var uses []string
	for _, name := range includeNames(text) {
		if near := path.Join(path.Dir(file), name); s.tree[near] {
			uses = append(uses, near)
		}
		uses = append(uses, s.search(name)...)
	}
	slices.Sort(uses)
	return slices.Compact(uses)
}

func (s *scanner) search(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, done := s.resolved[name]; done {
		return found
	}
	var found []string
	for _, root := range append([]string{"."}, s.roots...) {
		if p := path.Join(root, name); s.tree[p] {
			found = append(found, p)
		}
	}
	slices.Sort(found)
	s.resolved[name] = slices.Compact(found)
	return s.resolved[name]
}

// includeNames lists the names in #include lines. A name that is a macro
// (TRACE_INCLUDE) is left out: those files are included by their name as well.
func includeNames(text []byte) []string {
	var names []string
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(bytes.TrimLeft(line, " \t"), []byte("#"))
		if !ok {
			continue
		}
		if rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, " \t"), []byte("include")); !ok {
			continue
		}
		rest = bytes.TrimLeft(rest, " \t")
		if len(rest) < 3 || rest[0] != '"' && rest[0] != '<' {
			continue
		}
		end := byte('"')
		if rest[0] == '<' {
			end = '>'
		}
		if n := bytes.IndexByte(rest[1:], end); n > 0 {
			names = append(names, string(rest[1:1+n]))
		}
	}
	return names
}
